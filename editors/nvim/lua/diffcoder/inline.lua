--- Ghost text: asked for, taken whole, by the word or by the line, or swapped for another.
---
--- Where this Neovim has vim.lsp.inline_completion, automatic suggestions are its own. Extmarks of this file show what
--- it does not: alternatives that were asked for, and what is left of a suggestion after a part was taken, until
--- Neovim shows it again. In Neovim 0.11 they show everything. Neovim 0.12 keeps a suggestion on screen, and takes it
--- at its old place, when something else was typed; `watch` has it dropped.

local config = require('diffcoder.config')
local message = require('diffcoder.message')

local M = {}

local api = vim.api
local METHOD = 'textDocument/inlineCompletion'
local INVOKED, AUTOMATIC = 1, 2
local ns = api.nvim_create_namespace('diffcoder.inline')

--- What our extmarks show. `texts` follow the cursor at (row, col), both from 0; `tail` is the rest of its line.
---@class diffcoder.Ghost
---@field buf integer
---@field row integer
---@field col integer
---@field tail string
---@field texts string[]
---@field index integer
---@field passing boolean Neovim will show it again by itself

local ghost ---@type diffcoder.Ghost?
local suspended ---@type integer? the buffer that was taken from Neovim
local theirs ---@type { buf: integer, row: integer, col: integer, text: string }? what Neovim showed last
local asked ---@type { client: vim.lsp.Client, id: integer, buf: integer, kind: integer }?

local function native()
  return vim.lsp.inline_completion ~= nil and config.current.inline.native
end

local function inserting()
  return vim.startswith(api.nvim_get_mode().mode, 'i')
end

local function cursor()
  local place = api.nvim_win_get_cursor(0)
  return place[1] - 1, place[2]
end

local function line_tail(buf, row, col)
  return (api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ''):sub(col + 1)
end

local function draw()
  if not ghost then
    return
  end
  api.nvim_buf_clear_namespace(ghost.buf, ns, 0, -1)
  local lines = {}
  for _, line in ipairs(vim.split(ghost.texts[ghost.index], '\n', { plain = true })) do
    table.insert(lines, { { line, 'DiffcoderGhost' } })
  end
  if #ghost.texts > 1 then
    table.insert(lines[#lines], { (' (%d/%d)'):format(ghost.index, #ghost.texts), 'DiffcoderHint' })
  end
  api.nvim_buf_set_extmark(ghost.buf, ns, ghost.row, ghost.col, {
    virt_text = lines[1],
    virt_text_pos = 'inline',
    virt_lines = #lines > 1 and vim.list_slice(lines, 2) or nil,
    hl_mode = 'combine',
  })
end

local function suspend(buf)
  if native() and suspended ~= buf then
    suspended, theirs = buf, nil
    vim.lsp.inline_completion.enable(false, { bufnr = buf })
  end
end

local function resume()
  if suspended then
    local buf = suspended
    suspended = nil
    if api.nvim_buf_is_valid(buf) then
      vim.lsp.inline_completion.enable(true, { bufnr = buf })
    end
  end
end

local function cancel()
  if asked then
    local last = asked
    asked = nil
    last.client:cancel_request(last.id)
    require('diffcoder.draft').clear(last.buf, 'inline')
  end
end

--- Show no extmarks of ours.
local function hide()
  if ghost then
    local old = ghost
    ghost = nil
    if api.nvim_buf_is_valid(old.buf) then
      api.nvim_buf_clear_namespace(old.buf, ns, 0, -1)
    end
  end
end

---@param buf integer
---@param texts string[]
---@param passing boolean
local function show(buf, texts, passing)
  local row, col = cursor()
  ghost =
    { buf = buf, row = row, col = col, tail = line_tail(buf, row, col), texts = texts, index = 1, passing = passing }
  draw()
end

--- Go along with what was typed: true where the shown text agrees with it.
local function follow()
  if not ghost then
    return false
  end
  local row, col = cursor()
  if api.nvim_get_current_buf() ~= ghost.buf or row < ghost.row or line_tail(ghost.buf, row, col) ~= ghost.tail then
    return false
  end
  local ok, typed = pcall(api.nvim_buf_get_text, ghost.buf, ghost.row, ghost.col, row, col, {})
  if not ok then
    return false
  end
  local text = table.concat(typed, '\n')
  local rests = {}
  for _, each in ipairs(ghost.texts) do
    if vim.startswith(each, text) and each:sub(#text + 1):find('%S') then
      table.insert(rests, each:sub(#text + 1))
    end
  end
  if not vim.startswith(ghost.texts[ghost.index], text) or #rests == 0 then
    return false
  end
  if text ~= '' then
    local chosen = ghost.texts[ghost.index]:sub(#text + 1)
    ghost.row, ghost.col, ghost.texts = row, col, rests
    ghost.index = 1
    for number, rest in ipairs(rests) do
      if rest == chosen then
        ghost.index = number
      end
    end
  end
  draw()
  return true
end

--- The texts of an answer that go on from the cursor.
local function fitting(buf, items, encoding)
  local row, col = cursor()
  local texts = {}
  for _, item in ipairs(items) do
    local text = type(item.insertText) == 'string' and item.insertText or item.insertText.value
    local from = item.range and item.range.start
    local typed = ''
    if from and from.line == row then
      local line = api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ''
      typed = line:sub(vim.str_byteindex(line, encoding, from.character, false) + 1, col)
    end
    if (not from or from.line == row) and vim.startswith(text, typed) and #text > #typed then
      table.insert(texts, text:sub(#typed + 1))
    end
  end
  return texts
end

---@param client vim.lsp.Client
---@param buf integer
---@param kind integer
local function request(client, buf, kind)
  cancel()
  local row, col = cursor()
  local params = {
    textDocument = vim.lsp.util.make_text_document_params(buf),
    position = vim.lsp.util.make_position_params(0, client.offset_encoding).position,
    context = { triggerKind = kind },
  }
  local mine = { client = client, buf = buf, kind = kind }
  local ok, id = client:request(METHOD, params, function(err, result)
    if asked ~= mine then
      return
    end
    asked = nil
    require('diffcoder.draft').clear(buf, 'inline')
    local now_row, now_col = cursor()
    if not inserting() or api.nvim_get_current_buf() ~= buf or now_row ~= row or now_col ~= col then
      return
    end
    if vim.fn.pumvisible() == 1 and kind == AUTOMATIC then
      return hide()
    end
    local texts = result and fitting(buf, result.items or result, client.offset_encoding) or {}
    if #texts > 0 then
      show(buf, texts, false)
    else
      hide()
      resume()
      if kind == INVOKED then
        message.say(err and err.message or 'the model has nothing to suggest here')
      end
    end
  end, buf)
  if ok then
    mine.id = id
    asked = mine
    if kind == INVOKED then
      hide()
      suspend(buf)
      require('diffcoder.draft').expect(buf, 'inline', row)
    end
  end
end

--- What Neovim shows now, from its extmarks: it tells nobody.
local function look_at_theirs(buf)
  theirs = nil
  local theirs_ns = api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  local mark = theirs_ns and api.nvim_buf_get_extmarks(buf, theirs_ns, 0, -1, { details = true })[1]
  if mark then
    local lines = {}
    for _, chunks in ipairs({ mark[4].virt_text or {}, unpack(mark[4].virt_lines or {}) }) do
      table.insert(lines, chunks[1] and chunks[1][1] or '')
    end
    theirs = { buf = buf, row = mark[2], col = mark[3], text = table.concat(lines, '\n') }
  end
end

--- Have Neovim ask again, as after a key.
local function ask_natively(buf)
  pcall(api.nvim_exec_autocmds, 'CursorMovedI', { group = 'nvim.lsp.inline_completion:' .. buf, buffer = buf })
end

--- Whether what Neovim shows goes on from what was typed; drops it where it does not.
local function watch(buf)
  if not theirs or theirs.buf ~= buf then
    return
  end
  local row, col = cursor()
  local ok, typed = pcall(api.nvim_buf_get_text, buf, theirs.row, theirs.col, row, col, {})
  if ok and vim.startswith(theirs.text, table.concat(typed, '\n')) then
    return
  end
  theirs = nil
  local dropped = vim.lsp.inline_completion.get({
    bufnr = buf,
    on_accept = function() end,
  })
  if dropped then
    vim.schedule(function()
      ask_natively(buf)
    end)
  end
end

--- The text changed or the cursor moved while inserting.
local function moved(client, buf)
  if suspended == buf or not native() or ghost then
    if follow() then
      return
    end
    local ours = asked and asked.kind == INVOKED
    cancel()
    hide()
    if native() then
      if suspended or ours then
        resume()
        ask_natively(buf)
      end
    elseif not client:is_stopped() then
      request(client, buf, AUTOMATIC)
    end
  else
    watch(buf)
  end
end

--- Ask for what the server or its engine was not ready for.
---@param client vim.lsp.Client
function M.retry(client)
  local buf = api.nvim_get_current_buf()
  if not client.attached_buffers[buf] or not inserting() or not config.current.inline.enable or ghost then
    return
  end
  if native() then
    ask_natively(buf)
  else
    request(client, buf, AUTOMATIC)
  end
end

---@param text string
local function insert(text)
  local row, col = cursor()
  local lines = vim.split(text, '\n', { plain = true })
  api.nvim_buf_set_text(0, row, col, row, col, lines)
  api.nvim_win_set_cursor(0, { row + #lines, (#lines == 1 and col or 0) + #lines[#lines] })
end

local PARTS = {
  all = [[^\_.*]],
  line = [[^\n*[^\n]\+]],
  word = [[^\_s*\%(\k\+\|\%(\k\@!\S\)\+\)]],
}

--- Insert the first part of `text` and show the rest.
local function take(buf, text, part, passing)
  local piece = vim.fn.matchstr(text, PARTS[part])
  if piece == '' then
    piece = text
  end
  insert(piece)
  local rest = text:sub(#piece + 1)
  if rest:find('%S') then
    show(buf, { rest }, passing)
  end
end

--- Take `part` of what is shown; false when nothing is.
---@param part 'all'|'line'|'word'
---@return boolean
function M.accept(part)
  local buf = api.nvim_get_current_buf()
  if ghost and ghost.buf == buf then
    -- Not now: a mapping's expression may not change the text.
    vim.schedule(function()
      if ghost and ghost.buf == buf and follow() then
        local text = ghost.texts[ghost.index]
        hide()
        resume()
        take(buf, text, part, native())
      end
    end)
    return true
  end
  if not native() then
    return false
  end
  if part == 'all' then
    return vim.lsp.inline_completion.get()
  end
  return vim.lsp.inline_completion.get({
    on_accept = function(item)
      local text = type(item.insert_text) == 'string' and item.insert_text or item.insert_text.value
      local row, col = cursor()
      if item.range then
        local from_row, from_col = item.range:to_extmark()
        if from_row ~= row then
          return item
        end
        local typed = api.nvim_buf_get_text(buf, row, from_col, row, col, {})[1]
        if not vim.startswith(text, typed) then
          return item
        end
        text = text:sub(#typed + 1)
      end
      take(buf, text, part, true)
    end,
  })
end

--- The next (1) or previous (-1) alternative; asks for some where none are shown.
---@param step integer
---@return boolean
function M.cycle(step)
  local buf = api.nvim_get_current_buf()
  if ghost and ghost.buf == buf and #ghost.texts > 1 then
    vim.schedule(function()
      if ghost then
        ghost.index = (ghost.index - 1 + step) % #ghost.texts + 1
        draw()
      end
    end)
    return true
  end
  if asked and asked.kind == INVOKED then
    return true -- they are on their way
  end
  local client = require('diffcoder.server').need(buf)
  if client then
    vim.schedule(function()
      request(client, buf, INVOKED)
    end)
  end
  return client ~= nil
end

---@return boolean
function M.dismiss()
  cancel()
  local shown = ghost ~= nil
  vim.schedule(function()
    hide()
    resume()
  end)
  if not shown and native() then
    return vim.lsp.inline_completion.get({
      on_accept = function() end,
    })
  end
  return shown
end

--- Map a key to `work`; where that does nothing, the key is what it was before.
local function map(buf, lhs, what, work)
  if not lhs then
    return
  end
  local before = vim.fn.maparg(lhs, 'i', false, true)
  -- A chord that nobody mapped does nothing: Neovim would leave insert mode for it.
  local other = lhs:lower():find('^<[ma]%-') and '' or lhs
  if before.buffer == 0 and next(before) then
    other = ('<Plug>(diffcoder-before-%s)'):format(lhs:gsub('[<>]', ''))
    before.lhs, before.lhsraw = other, vim.keycode(other)
    before.lhsrawalt = nil
    vim.fn.mapset('i', false, before)
  end
  vim.keymap.set('i', lhs, function()
    return work() and '<C-g>u' or other
  end, { buffer = buf, expr = true, remap = true, desc = 'diffcoder: ' .. what })
end

---@param client vim.lsp.Client
---@param buf integer
function M.attach(client, buf)
  if not config.current.inline.enable then
    return
  end
  if native() then
    vim.lsp.inline_completion.enable(true, { bufnr = buf })
  end
  local group = api.nvim_create_augroup('diffcoder.inline.' .. buf, { clear = true })
  api.nvim_create_autocmd({ 'InsertEnter', 'CursorMovedI', 'TextChangedP' }, {
    group = group,
    buffer = buf,
    callback = function()
      moved(client, buf)
    end,
  })
  api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave' }, {
    group = group,
    buffer = buf,
    callback = function()
      cancel()
      hide()
      resume()
      theirs = nil
    end,
  })
  api.nvim_create_autocmd('LspRequest', {
    group = group,
    buffer = buf,
    callback = function(event)
      local data = event.data
      if data.client_id ~= client.id or data.request.type ~= 'complete' or data.request.method ~= METHOD then
        return
      end
      vim.schedule(function()
        if ghost and ghost.passing and not (asked and asked.id == data.request_id) then
          hide()
        end
        if native() and suspended ~= buf and api.nvim_buf_is_valid(buf) then
          look_at_theirs(buf)
        end
        if not client:is_stopped() then
          require('diffcoder.server').refresh(client)
        end
      end)
    end,
  })
  local keys = config.current.keys
  map(buf, keys.accept, 'take the suggestion', function()
    return M.accept('all')
  end)
  map(buf, keys.accept_word, 'take a word of the suggestion', function()
    return M.accept('word')
  end)
  map(buf, keys.accept_line, 'take a line of the suggestion', function()
    return M.accept('line')
  end)
  map(buf, keys.next, 'next suggestion', function()
    return M.cycle(1)
  end)
  map(buf, keys.previous, 'previous suggestion', function()
    return M.cycle(-1)
  end)
  map(buf, keys.dismiss, 'hide the suggestion', M.dismiss)
  vim.schedule(function()
    M.retry(client) -- for somebody who was faster than the server
  end)
end

return M
