--- What the model has written so far, shown in place while it denoises: committed text, and a shade for each place
--- that is still masked. Nothing of it is in the buffer.

local M = {}

local api = vim.api
local ns = api.nvim_create_namespace('diffcoder.draft')
local MASK = '▒▒▒'
local FRAMES = { '◐', '◓', '◑', '◒' }

--- What is expected in a buffer: drafts of one kind, at `row` until the first one says where.
---@class diffcoder.Expected
---@field kind 'inline'|'edit'|'gap'
---@field row integer
---@field last integer the last row of what is rewritten
---@field drafts table<string, integer> position -> extmark
---@field spinner integer? extmark
---@field timer uv.uv_timer_t?

local expected = {} ---@type table<integer, diffcoder.Expected>

--- Lines of [text, highlight] chunks: what is committed, then the block.
local function lines_of(text, block)
  local lines, line = {}, {}
  local function add(piece, group)
    for number, part in ipairs(vim.split(piece, '\n', { plain = true })) do
      if number > 1 then
        table.insert(lines, line)
        line = {}
      end
      if part ~= '' then
        table.insert(line, { part, group })
      end
    end
  end
  add(text, 'DiffcoderDraft')
  for _, place in ipairs(block) do
    if place == vim.NIL then
      add(MASK, 'DiffcoderMask')
    else
      add(place, 'DiffcoderUnsure')
    end
  end
  table.insert(lines, line)
  return lines
end

local function stop(buf)
  local old = expected[buf]
  expected[buf] = nil
  if old and old.timer and not old.timer:is_closing() then
    old.timer:close()
  end
  if api.nvim_buf_is_valid(buf) then
    api.nvim_buf_clear_namespace(buf, ns, 0, -1)
  end
end

--- Show that the model is at work in a buffer, and its drafts as they come.
---@param buf integer
---@param kind 'inline'|'edit'|'gap'
---@param first integer row, from 0
---@param last integer?
---@param hint string? how to stop it
function M.expect(buf, kind, first, last, hint)
  stop(buf)
  last = last or first
  local mine = { kind = kind, row = first, last = last, drafts = {} }
  expected[buf] = mine
  if kind == 'edit' then
    for row = first, last do
      api.nvim_buf_set_extmark(buf, ns, row, 0, { line_hl_group = 'DiffcoderOld', priority = 200 })
    end
  end
  local began, frame = vim.uv.now(), 0
  mine.timer = assert(vim.uv.new_timer())
  mine.timer:start(0, 100, vim.schedule_wrap(function()
    if expected[buf] ~= mine then
      return
    elseif not api.nvim_buf_is_loaded(buf) then
      return stop(buf)
    end
    frame = frame % (2 * #FRAMES) + 1
    local words = (' %s %.0f s%s'):format(FRAMES[math.ceil(frame / 2)], (vim.uv.now() - began) / 1000, hint and '  ' .. hint or '')
    mine.spinner = api.nvim_buf_set_extmark(buf, ns, math.min(mine.row, api.nvim_buf_line_count(buf) - 1), 0, {
      id = mine.spinner,
      virt_text = { { words, 'DiffcoderHint' } },
      virt_text_pos = 'eol',
    })
  end))
end

--- No more drafts of `kind` in a buffer.
---@param buf integer
---@param kind 'inline'|'edit'|'gap'
function M.clear(buf, kind)
  if expected[buf] and expected[buf].kind == kind then
    stop(buf)
  end
end

function M.on_draft(params)
  local buf = vim.uri_to_bufnr(params.uri)
  local mine = expected[buf]
  if not mine or mine.kind ~= params.kind or not api.nvim_buf_is_loaded(buf) then
    return
  end
  if params.version ~= vim.NIL and params.version ~= vim.lsp.util.buf_versions[buf] then
    return
  end
  local row = params.position.line
  local line = api.nvim_buf_get_lines(buf, row, row + 1, false)[1]
  if not line then
    return
  end
  local client = require('diffcoder.server').client(buf)
  local encoding = client and client.offset_encoding or 'utf-16'
  local col = vim.str_byteindex(line, encoding, params.position.character, false)
  local lines = lines_of(params.text, params.block)
  local key = ('%d:%d'):format(row, params.position.character)
  local mark = { id = mine.drafts[key], hl_mode = 'combine' }
  if params.kind == 'edit' then
    if #lines > 1 and #lines[#lines] == 0 then
      table.remove(lines)
    end
    for _, each in ipairs(lines) do
      if #each == 0 then
        table.insert(each, { ' ', 'DiffcoderDraft' })
      end
    end
    mark.virt_lines = lines
    row, col = mine.last, 0
  else
    mark.virt_text = #lines[1] > 0 and lines[1] or nil
    mark.virt_text_pos = 'inline'
    mark.virt_lines = #lines > 1 and vim.list_slice(lines, 2) or nil
  end
  mine.drafts[key] = api.nvim_buf_set_extmark(buf, ns, row, col, mark)
end

return M
