--- Asking for edits: with an instruction, of a stub, of gaps, of a diagnostic. What comes back goes to the review.
---
--- All of them are the server's commands, asked for as code actions to be resolved: the answer is then an edit that
--- has not been made.

local draft = require('diffcoder.draft')
local message = require('diffcoder.message')
local review = require('diffcoder.review')
local server = require('diffcoder.server')

local M = {}

local api = vim.api
local CANCELLED = -32800
local selected = api.nvim_create_namespace('diffcoder.selected')
local asked = api.nvim_create_namespace('diffcoder.asked')

---@type table<integer, { client: vim.lsp.Client, id: integer, kind: string }>
local pending = {}

--- Whether the buffer may be changed; asks how to go on where it may not.
---@param buf integer
---@param go_on fun()
local function changeable(buf, go_on)
  local name = vim.fs.basename(api.nvim_buf_get_name(buf))
  if not vim.bo[buf].modifiable or vim.bo[buf].readonly then
    message.ask(('%s is read-only'):format(name), {
      {
        'Edit it anyway (set modifiable noreadonly)',
        function()
          vim.bo[buf].modifiable, vim.bo[buf].readonly = true, false
          go_on()
        end,
      },
      { 'Leave it', function() end },
    })
    return false
  end
  if review.open(buf) then
    message.ask(('%d changes wait for your word'):format(review.waiting(buf)), {
      { 'Go on reviewing', function() end },
      {
        'Leave them all, and ask anew',
        function()
          review.reject_all(buf)
          go_on()
        end,
      },
    })
    return false
  end
  return true
end

local function done(buf)
  local work = pending[buf]
  pending[buf] = nil
  if work then
    draft.clear(buf, work.kind)
    pcall(vim.keymap.del, 'n', '<C-c>', { buffer = buf })
  end
end

--- Stop what the model does for a buffer.
---@param buf integer
function M.cancel(buf)
  local work = pending[buf]
  if not work then
    return message.say('nothing is at work in this buffer')
  end
  work.client:cancel_request(work.id)
  done(buf)
  message.say('stopped')
end

--- The server of a client has ended: its work will not come.
---@param client_id integer
function M.lost(client_id)
  for buf, work in pairs(pending) do
    if work.client.id == client_id then
      done(buf)
      message.warn('the edit was lost with the server; nothing was changed: ask again')
    end
  end
end

---@param edit lsp.WorkspaceEdit
---@param uri string
local function edits_of(edit, uri)
  for _, change in ipairs(edit.documentChanges or {}) do
    if change.textDocument and change.textDocument.uri == uri then
      return change.edits
    end
  end
  return (edit.changes or {})[uri] or {}
end

local resolve

--- Resolve one of the server's actions and review what it would do.
---@param buf integer
---@param action lsp.CodeAction its data names command, argument and version
---@param kind 'edit'|'gap'
---@param first integer row, from 0
---@param last integer
---@param again fun()? to ask once more; without it, for another answer to the same
function resolve(buf, action, kind, first, last, again)
  local client = server.need(buf)
  if not client then
    return
  end
  local go_on = function()
    resolve(buf, action, kind, first, last, again)
  end
  if not changeable(buf, go_on) then
    return
  end
  if pending[buf] then
    pending[buf].client:cancel_request(pending[buf].id)
    done(buf)
  end
  action.data.version = vim.lsp.util.buf_versions[buf]
  local tick = api.nvim_buf_get_changedtick(buf)
  local cursor = api.nvim_win_get_cursor(0)
  local work = { client = client, kind = kind }
  local ok, id = client:request('codeAction/resolve', action, function(err, result)
    if pending[buf] ~= work then
      return
    end
    done(buf)
    if not client:is_stopped() then
      server.refresh(client)
    end
    if err then
      if err.code ~= CANCELLED then
        message.warn(err.message)
      end
    elseif not api.nvim_buf_is_loaded(buf) then
      message.warn('the file was closed meanwhile, so nothing was changed')
    else
      local edits = edits_of(result.edit or {}, vim.uri_from_bufnr(buf))
      if api.nvim_buf_get_changedtick(buf) ~= tick and result.edit.documentChanges then
        local version = result.edit.documentChanges[1].textDocument.version
        if version ~= vim.lsp.util.buf_versions[buf] then
          return message.warn('the text changed while the model was at work, so nothing was changed; ask again')
        end
      end
      -- Somebody who works elsewhere in the file stays there: the next key is not meant for a change.
      local here = api.nvim_get_current_buf() == buf and vim.deep_equal(api.nvim_win_get_cursor(0), cursor)
      review.start(buf, edits, {
        encoding = client.offset_encoding,
        stay = not here or api.nvim_get_mode().mode ~= 'n',
        again = again or function()
          action.data.argument.variation = (action.data.argument.variation or 0) + 1
          resolve(buf, action, kind, first, last)
        end,
        tell = function(outcome, texts)
          local argument = { uri = vim.uri_from_bufnr(buf), kind = kind, outcome = outcome, texts = texts }
          if not client:is_stopped() then
            client:request('workspace/executeCommand', { command = 'diffcoder.outcome', arguments = { argument } })
          end
        end,
      })
    end
  end, buf)
  if not ok then
    return message.warn('the server has ended: run :Diffcoder restart')
  end
  work.id = id
  pending[buf] = work
  draft.expect(buf, kind, first, last, '<C-c> stops')
  vim.keymap.set('n', '<C-c>', function()
    M.cancel(buf)
  end, { buffer = buf, desc = 'diffcoder: stop' })
end

---@param title string
---@param command string
---@param argument table
local function action_of(title, command, argument)
  return { title = title, kind = 'refactor.rewrite', data = { command = command, argument = argument } }
end

--- The paragraph around the cursor.
local function paragraph()
  local last = vim.fn.line('$')
  local first_row, last_row = vim.fn.line('.'), vim.fn.line('.')
  local function blank(row)
    return vim.fn.getline(row):find('%S') == nil
  end
  while first_row > 1 and not blank(first_row - 1) do
    first_row = first_row - 1
  end
  while last_row < last and not blank(last_row + 1) do
    last_row = last_row + 1
  end
  return first_row, last_row
end

--- Lines (from 1, both inclusive) that go along with the text, so that the same ones can be asked about again.
---@return fun(): integer, integer
local function followed(buf, first, last)
  local row = math.min(last, api.nvim_buf_line_count(buf)) - 1
  local mark = api.nvim_buf_set_extmark(buf, asked, first - 1, 0, {
    right_gravity = false,
    end_row = row,
    end_col = #api.nvim_buf_get_lines(buf, row, row + 1, true)[1],
    end_right_gravity = true,
  })
  return function()
    local found = api.nvim_buf_get_extmark_by_id(buf, asked, mark, { details = true })
    if #found == 0 then -- the file was read again
      return first, last
    end
    local from, to, column = found[1], found[3].end_row, found[3].end_col
    -- Lines that were replaced up to the last one leave its end at the beginning of the next.
    if column == 0 and to > from and #(api.nvim_buf_get_lines(buf, to, to + 1, false)[1] or '') > 0 then
      to = to - 1
    end
    return from + 1, to + 1
  end
end

--- Rewrite lines (from 1, both inclusive; none: the paragraph at the cursor) as an instruction says; asks for one.
---@param first integer?
---@param last integer?
---@param instruction string?
function M.edit(first, last, instruction)
  local buf = api.nvim_get_current_buf()
  if not first or not last then
    first, last = paragraph()
  end
  local lines = followed(buf, first, last)
  local last_text, variation
  local function run(text)
    variation = text == last_text and variation + 1 or 0
    last_text = text
    local from, to = lines()
    local range = { start = { line = from - 1, character = 0 }, ['end'] = { line = to, character = 0 } }
    local argument = { uri = vim.uri_from_bufnr(buf), range = range, instruction = text, variation = variation }
    local action = action_of('diffcoder: ' .. text, 'diffcoder.edit', argument)
    resolve(buf, action, 'edit', from - 1, to - 1, function()
      from, to = lines()
      M.prompt(buf, from, to, text, run)
    end)
  end
  if instruction then
    return run(instruction)
  end
  if server.need(buf) and changeable(buf, function()
    M.edit(first, last)
  end) then
    M.prompt(buf, first, last, nil, run)
  end
end

--- Ask for an instruction with the lines in sight; earlier ones are in the history of the prompt.
---@param buf integer
---@param first integer
---@param last integer
---@param before string? to begin with
---@param run fun(instruction: string)
function M.prompt(buf, first, last, before, run)
  for row = first - 1, math.min(last, api.nvim_buf_line_count(buf)) - 1 do
    api.nvim_buf_set_extmark(buf, selected, row, 0, { line_hl_group = 'DiffcoderSelected', priority = 200 })
  end
  vim.cmd.redraw()
  vim.ui.input({ prompt = 'Edit: ', default = before }, function(text)
    if api.nvim_buf_is_valid(buf) then
      api.nvim_buf_clear_namespace(buf, selected, 0, -1)
    end
    if text and text:find('%S') then
      run(text)
    elseif text then
      message.say('the instruction is empty: say what to change')
    end
  end)
end

--- Fill the gaps of the buffer, or of lines of it.
---@param first integer?
---@param last integer?
function M.fill(first, last)
  local buf = api.nvim_get_current_buf()
  local argument = { uri = vim.uri_from_bufnr(buf) }
  if first and last then
    local length = #vim.fn.getline(last)
    argument.range = { start = { line = first - 1, character = 0 }, ['end'] = { line = last - 1, character = length } }
    if server.client(buf) then
      local line = vim.fn.getline(last)
      argument.range['end'].character = vim.str_utfindex(line, server.client(buf).offset_encoding, length, false)
    end
  end
  local row = vim.fn.line('.') - 1
  resolve(buf, action_of('diffcoder: fill the gaps', 'diffcoder.fillGaps', argument), 'gap', row, row)
end

--- Write the body of the stub at the cursor.
function M.implement()
  local buf, row = api.nvim_get_current_buf(), vim.fn.line('.') - 1
  local place = { line = row, character = 0 }
  local argument = { uri = vim.uri_from_bufnr(buf), range = { start = place, ['end'] = place } }
  resolve(buf, action_of('diffcoder: implement', 'diffcoder.implement', argument), 'gap', row, row)
end

--- A diagnostic of whoever made it, as the server takes it.
local function as_lsp(buf, encoding, diagnostic)
  local function position(row, col)
    local line = api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ''
    return { line = row, character = vim.str_utfindex(line, encoding, math.min(col, #line), false) }
  end
  return {
    range = {
      start = position(diagnostic.lnum, diagnostic.col),
      ['end'] = position(diagnostic.end_lnum or diagnostic.lnum, diagnostic.end_col or diagnostic.col),
    },
    message = diagnostic.message,
    severity = diagnostic.severity,
    source = diagnostic.source,
  }
end

--- Fix a diagnostic of the cursor's line; asks which where there are several.
function M.fix()
  local buf, row = api.nvim_get_current_buf(), vim.fn.line('.') - 1
  local client = server.need(buf)
  if not client then
    return
  end
  local found = vim.diagnostic.get(buf, { lnum = row })
  if #found == 0 then
    return message.say('there is no diagnostic on this line')
  end
  local params = {
    textDocument = { uri = vim.uri_from_bufnr(buf) },
    range = { start = { line = row, character = 0 }, ['end'] = { line = row, character = 0 } },
    context = {
      diagnostics = vim.tbl_map(function(each)
        return as_lsp(buf, client.offset_encoding, each)
      end, found),
      only = { 'quickfix' },
      triggerKind = 1,
    },
  }
  client:request('textDocument/codeAction', params, function(err, actions)
    if err then
      return message.warn(err.message)
    end
    if not actions or #actions == 0 then
      return message.say('the server does not work on this file: :Diffcoder status says why')
    end
    local function take(action)
      if action then
        local range = action.data.argument.range
        local last = range['end'].character > 0 and range['end'].line or range['end'].line - 1
        resolve(buf, action, 'edit', range.start.line, math.max(range.start.line, last))
      end
    end
    if #actions == 1 then
      return take(actions[1])
    end
    message.select(actions, {
      prompt = 'Fix: ',
      kind = 'codeaction',
      format_item = function(action)
        return action.title
      end,
    }, take)
  end, buf)
end

return M
