--- An edit hunk by hunk: the old lines marked in the buffer, the new ones below them as virtual lines, each taken or
--- left with a key. The buffer changes only where a hunk is taken; one undo takes all of them back.

local config = require('diffcoder.config')
local look = require('diffcoder.look')
local message = require('diffcoder.message')

local M = {}

local api = vim.api
local ns = api.nvim_create_namespace('diffcoder.review')
local places = api.nvim_create_namespace('diffcoder.review.places')
local diff = vim.text.diff or vim.diff

--- `mark` follows the old lines through changes beside them.
---@class diffcoder.Hunk
---@field old string[]
---@field new string[]
---@field mark integer

---@class diffcoder.Review
---@field buf integer
---@field hunks diffcoder.Hunk[] those that wait
---@field count integer how many there were
---@field taken integer
---@field tick integer? the buffer's tick after the last hunk was taken
---@field current diffcoder.Hunk?
---@field again fun()? ask anew
---@field tell fun(outcome: 'shown'|'accepted'|'rejected', texts: string[]) for the user's own statistics
---@field before table[] mappings to put back

local reviews = {} ---@type table<integer, diffcoder.Review>
local kept = {} ---@type table<string, { row: integer, old: string[], new: string[] }[]>

---@param buf integer
function M.open(buf)
  return reviews[buf] ~= nil
end

--- How many hunks wait in a buffer.
---@param buf integer
function M.waiting(buf)
  return reviews[buf] and #reviews[buf].hunks or 0
end

---@param lines string[]
---@param edits lsp.TextEdit[]
---@param encoding string
---@return string[]
local function edited(lines, edits, encoding)
  local scratch = api.nvim_create_buf(false, true)
  vim.bo[scratch].modifiable = true -- which `:set nomodifiable` has made the default
  api.nvim_buf_set_lines(scratch, 0, -1, false, lines)
  vim.lsp.util.apply_text_edits(edits, scratch, encoding)
  local new = api.nvim_buf_get_lines(scratch, 0, -1, false)
  api.nvim_buf_delete(scratch, { force = true })
  return new
end

--- The runs of changed lines: { row (from 0), old lines, new lines }.
local function changes(old, new)
  local text = function(lines)
    return table.concat(lines, '\n') .. '\n'
  end
  local found = {}
  for _, each in ipairs(diff(text(old), text(new), { result_type = 'indices' })) do
    local a, n, c, m = unpack(each)
    table.insert(found, {
      row = n > 0 and a - 1 or a,
      old = vim.list_slice(old, a, a + n - 1),
      new = vim.list_slice(new, c, c + m - 1),
    })
  end
  return found
end

local function set_mark(buf, row, old)
  if #old == 0 then
    local last = api.nvim_buf_line_count(buf)
    return api.nvim_buf_set_extmark(buf, places, math.min(row, last), 0, { strict = false })
  end
  return api.nvim_buf_set_extmark(buf, places, row, 0, {
    end_row = row + #old - 1,
    end_col = #old[#old],
    strict = false,
  })
end

--- Where a hunk is now: its first row, and whether its old lines are still what they were.
local function place(review, hunk)
  local mark = api.nvim_buf_get_extmark_by_id(review.buf, places, hunk.mark, { details = true })
  if #mark == 0 then
    return 0, false
  end
  local lines = api.nvim_buf_get_lines(review.buf, mark[1], mark[1] + #hunk.old, false)
  local last = mark[3].end_row or mark[1] - 1
  return mark[1], vim.deep_equal(lines, hunk.old) and last - mark[1] + 1 == #hunk.old
end

--- The bytes at both ends that two lines share, never cutting a character.
local function shared(a, b)
  local head, most = 0, math.min(#a, #b)
  while head < most and a:byte(head + 1) == b:byte(head + 1) do
    head = head + 1
  end
  head = head + vim.str_utf_start(a .. ' ', head + 1)
  local tail = 0
  while tail < most - head and a:byte(#a - tail) == b:byte(#b - tail) do
    tail = tail + 1
  end
  while tail > 0 and vim.str_utf_start(a, #a - tail + 1) ~= 0 do
    tail = tail - 1
  end
  return head, tail
end

--- Whether two lines are versions of one another, so that showing what differs within them says something.
local function alike(a, b)
  local head, tail = shared(a, b)
  local blank = #a:match('^%s*')
  return (math.max(head - blank, 0) + tail) * 3 >= #b - blank
end

local function key_name(lhs)
  return ((lhs:gsub('<CR>', '⏎')):gsub('<BS>', '⌫'))
end

local function hints(review, number)
  local keys = config.current.review.keys
  local chunks = { { (' %d of %d '):format(number, #review.hunks), 'DiffcoderHint' } }
  local function add(lhs, what)
    if lhs then
      vim.list_extend(chunks, { { ' ' .. key_name(lhs), 'DiffcoderKey' }, { ' ' .. what .. ' ', 'DiffcoderHint' } })
    end
  end
  add(keys.accept, 'take')
  add(keys.reject, 'leave')
  if #review.hunks > 1 then
    add(keys.accept_all, 'take all')
    add(keys.reject_all, 'leave all')
    add(keys.next, 'next')
  end
  if review.again then
    add(keys.again, 'again')
  end
  add(keys.diff, 'diff')
  return chunks
end

--- New lines as virtual lines, as wide as the window, what differs from the old line set off.
local function added(review, hunk)
  local lines, width = {}, vim.o.columns
  for number, line in ipairs(hunk.new) do
    local chunks
    if #hunk.old == #hunk.new and alike(hunk.old[number], line) then
      local head, tail = shared(hunk.old[number], line)
      local start = look.untab(review.buf, line:sub(1, head))
      local middle = look.untab(review.buf, line:sub(head + 1, #line - tail), vim.fn.strdisplaywidth(start))
      chunks = { { start, 'DiffcoderAdded' }, { middle, 'DiffcoderAddedText' } }
      table.insert(chunks, { line:sub(#line - tail + 1), 'DiffcoderAdded' })
    else
      chunks = { { look.untab(review.buf, line), 'DiffcoderAdded' } }
    end
    local used = 0
    for _, chunk in ipairs(chunks) do
      used = used + vim.fn.strdisplaywidth(chunk[1])
    end
    table.insert(chunks, { (' '):rep(math.max(1, width - used)), 'DiffcoderAdded' })
    table.insert(lines, chunks)
  end
  return lines
end

local function draw(review)
  local buf = review.buf
  api.nvim_buf_clear_namespace(buf, ns, 0, -1)
  for number, hunk in ipairs(review.hunks) do
    local row = place(review, hunk)
    for offset, line in ipairs(hunk.old) do
      -- No line_hl_group: that would lie over what differs within the line.
      api.nvim_buf_set_extmark(buf, ns, row + offset - 1, 0, {
        end_row = row + offset,
        hl_group = 'DiffcoderRemoved',
        hl_eol = true,
        strict = false,
        priority = 200,
      })
      if #hunk.old == #hunk.new and alike(line, hunk.new[offset]) then
        local head, tail = shared(line, hunk.new[offset])
        if head < #line - tail then
          api.nvim_buf_set_extmark(buf, ns, row + offset - 1, head, {
            end_col = #line - tail,
            hl_group = 'DiffcoderRemovedText',
            priority = 201,
          })
        end
      end
    end
    local lines = added(review, hunk)
    if hunk == review.current then
      table.insert(lines, hints(review, number))
    end
    local after = row + #hunk.old - 1
    api.nvim_buf_set_extmark(buf, ns, math.max(after, 0), 0, {
      virt_lines = lines,
      virt_lines_above = after < 0,
    })
    if after < 0 then -- Neovim shows lines above the first one only where the window is told to
      for _, window in ipairs(vim.fn.win_findbuf(buf)) do
        api.nvim_win_call(window, function()
          if vim.fn.line('w0') == 1 then
            vim.fn.winrestview({ topline = 1, topfill = #lines })
          end
        end)
      end
    end
  end
end

--- The hunk at the cursor, else the first one after it, else the first; and whether it is at the cursor.
local function at_cursor(review)
  local row = api.nvim_win_get_cursor(0)[1] - 1
  local best, best_row
  for _, hunk in ipairs(review.hunks) do
    local first = place(review, hunk)
    local last = #hunk.old > 0 and first + #hunk.old - 1 or first
    if #hunk.old == 0 then
      first = math.max(first - 1, 0)
    end
    if row >= first and row <= last then
      return hunk, true
    end
    if first > row and (not best_row or first < best_row) then
      best, best_row = hunk, first
    end
  end
  return best or review.hunks[1], false
end

local function finish(review)
  reviews[review.buf] = nil
  if not api.nvim_buf_is_valid(review.buf) then
    return
  end
  api.nvim_buf_clear_namespace(review.buf, ns, 0, -1)
  api.nvim_buf_clear_namespace(review.buf, places, 0, -1)
  pcall(api.nvim_del_augroup_by_name, 'diffcoder.review.' .. review.buf)
  for _, lhs in pairs(config.current.review.keys) do
    if lhs then
      pcall(vim.keymap.del, 'n', lhs, { buffer = review.buf })
    end
  end
  api.nvim_buf_call(review.buf, function()
    for _, mapping in ipairs(review.before) do
      vim.fn.mapset('n', false, mapping)
    end
  end)
  if review.count > 0 then
    message.say(('%d of %d changes taken'):format(review.taken, review.count))
  end
  vim.cmd.redrawstatus()
end

local function go_to(review, hunk)
  local row = place(review, hunk)
  if #hunk.old == 0 then
    row = row - 1
  end
  api.nvim_win_set_cursor(0, { math.max(1, math.min(row + 1, api.nvim_buf_line_count(review.buf))), 0 })
  vim.cmd('normal! ^')
  review.current = hunk
  draw(review)
end

local function drop(review, hunk)
  review.hunks = vim.tbl_filter(function(each)
    return each ~= hunk
  end, review.hunks)
  pcall(api.nvim_buf_del_extmark, review.buf, places, hunk.mark)
end

--- Put the new lines in place of the old ones; the hunks of one review are one step of undo.
local function apply(review, hunk)
  local row, fits = place(review, hunk)
  if not fits then
    return false
  end
  local buf = review.buf
  if review.tick == api.nvim_buf_get_changedtick(buf) then
    api.nvim_buf_call(buf, function()
      pcall(vim.cmd.undojoin)
    end)
  end
  local ok, err = pcall(api.nvim_buf_set_lines, buf, row, row + #hunk.old, true, hunk.new)
  if not ok then
    message.warn(('the change was not made: %s'):format(err))
    return false
  end
  review.tick = api.nvim_buf_get_changedtick(buf)
  review.taken = review.taken + 1
  return true
end

local function go_on(review, row)
  if #review.hunks == 0 then
    return finish(review)
  end
  local nearest
  for _, hunk in ipairs(review.hunks) do
    if not nearest and place(review, hunk) >= row then
      nearest = hunk
    end
  end
  go_to(review, nearest or review.hunks[1])
end

--- Drop the hunks whose text has changed.
local function check(review)
  local before = #review.hunks
  for _, hunk in ipairs(review.hunks) do
    local _, fits = place(review, hunk)
    if not fits then
      drop(review, hunk)
    end
  end
  local lost = before - #review.hunks
  if lost > 0 then
    local what = lost == 1 and 'a proposed change was' or ('%d proposed changes were'):format(lost)
    message.when_idle(function()
      message.warn(what .. ' dropped: the text there has changed')
    end)
  end
  if #review.hunks == 0 then
    finish(review)
  else
    if not vim.tbl_contains(review.hunks, review.current) then
      review.current = review.hunks[1]
    end
    draw(review)
  end
end

---@param hunks diffcoder.Hunk[]
local function texts(hunks)
  return vim.tbl_map(function(hunk)
    return table.concat(hunk.new, '\n')
  end, hunks)
end

---@param buf integer?
local function of(buf)
  local review = reviews[buf or api.nvim_get_current_buf()]
  if not review then
    message.say('there is no edit to review in this buffer')
  end
  return review
end

--- Take or leave the hunk at the cursor; elsewhere, go to the next one, so that nothing unseen is decided.
local function decide(take)
  local review = of()
  if not review then
    return
  end
  local hunk, here = at_cursor(review)
  if not here then
    return go_to(review, hunk)
  end
  local row = place(review, hunk)
  if take and not apply(review, hunk) then
    return check(review)
  end
  review.tell(take and 'accepted' or 'rejected', texts({ hunk }))
  drop(review, hunk)
  go_on(review, row)
end

function M.accept()
  decide(true)
end

function M.reject()
  decide(false)
end

function M.accept_all()
  local review = of()
  if review then
    for _, hunk in ipairs(vim.list_slice(review.hunks)) do
      if apply(review, hunk) then
        review.tell('accepted', texts({ hunk }))
        drop(review, hunk)
      end
    end
    if #review.hunks > 0 then
      check(review)
    else
      finish(review)
    end
  end
end

---@param buf integer?
function M.reject_all(buf)
  local review = of(buf)
  if review then
    review.tell('rejected', texts(review.hunks))
    review.hunks = {}
    finish(review)
  end
end

local function step(direction)
  local review = of()
  if not review then
    return
  end
  local hunk, here = at_cursor(review)
  if here then
    local number = vim.iter(ipairs(review.hunks)):find(function(_, each)
      return each == hunk
    end)
    hunk = review.hunks[(number - 1 + direction) % #review.hunks + 1]
  end
  go_to(review, hunk)
end

function M.next()
  step(1)
end

function M.previous()
  step(-1)
end

function M.again()
  local review = of()
  if review and review.again then
    local again = review.again
    review.hunks, review.count = {}, 0
    finish(review)
    again()
  end
end

--- The buffer beside what it would be if every hunk were taken, in a tab of its own.
function M.diff()
  local review = of()
  if not review then
    return
  end
  local lines = api.nvim_buf_get_lines(review.buf, 0, -1, false)
  for number = #review.hunks, 1, -1 do
    local hunk = review.hunks[number]
    local row = place(review, hunk)
    local rest = vim.list_slice(lines, row + #hunk.old + 1)
    lines = vim.list_extend(vim.list_extend(vim.list_slice(lines, 1, row), hunk.new), rest)
  end
  local filetype = vim.bo[review.buf].filetype
  vim.cmd('tab split')
  vim.cmd.diffthis()
  vim.cmd('rightbelow vnew')
  local scratch = api.nvim_get_current_buf()
  vim.bo[scratch].buftype, vim.bo[scratch].bufhidden, vim.bo[scratch].swapfile = 'nofile', 'wipe', false
  vim.bo[scratch].modifiable = true
  api.nvim_buf_set_lines(scratch, 0, -1, false, lines)
  vim.bo[scratch].filetype, vim.bo[scratch].modifiable = filetype, false
  vim.cmd.diffthis()
  vim.keymap.set('n', 'q', '<Cmd>tabclose<CR>', { buffer = scratch, desc = 'diffcoder: close the diff' })
end

local function watch(review)
  local buf = review.buf
  local group = api.nvim_create_augroup('diffcoder.review.' .. buf, { clear = true })
  api.nvim_create_autocmd({ 'TextChanged', 'TextChangedI' }, {
    group = group,
    buffer = buf,
    callback = function()
      if review.tick ~= api.nvim_buf_get_changedtick(buf) then
        check(review)
      end
    end,
  })
  api.nvim_create_autocmd('CursorMoved', {
    group = group,
    buffer = buf,
    callback = function()
      local hunk, here = at_cursor(review)
      if here and hunk ~= review.current then
        review.current = hunk
        draw(review)
      end
    end,
  })
  api.nvim_create_autocmd({ 'BufUnload', 'BufReadPre' }, {
    group = group,
    buffer = buf,
    callback = function()
      local waiting = {}
      for _, hunk in ipairs(review.hunks) do
        table.insert(waiting, { row = (place(review, hunk)), old = hunk.old, new = hunk.new })
      end
      kept[api.nvim_buf_get_name(buf)] = waiting
      review.count = 0
      finish(review)
    end,
  })
  local actions = {
    accept = M.accept,
    reject = M.reject,
    accept_all = M.accept_all,
    reject_all = M.reject_all,
    next = M.next,
    previous = M.previous,
    again = M.again,
    diff = M.diff,
  }
  for name, lhs in pairs(config.current.review.keys) do
    if lhs then
      local before = vim.fn.maparg(lhs, 'n', false, true)
      if before.buffer == 1 then
        table.insert(review.before, before)
      end
      vim.keymap.set('n', lhs, actions[name], { buffer = buf, nowait = true, desc = 'diffcoder review: ' .. name })
    end
  end
end

local function begin(buf, found, options)
  local review = { buf = buf, hunks = {}, count = #found, taken = 0, before = {} }
  review.again, review.tell = options.again, options.tell or function() end
  for _, each in ipairs(found) do
    table.insert(review.hunks, { old = each.old, new = each.new, mark = set_mark(buf, each.row, each.old) })
  end
  reviews[buf] = review
  api.nvim_buf_call(buf, function()
    watch(review)
  end)
  review.current = review.hunks[1]
  if not options.stay and api.nvim_get_current_buf() == buf then
    go_to(review, review.hunks[1])
  else
    draw(review)
  end
end

--- Offer edits of a buffer for review. Nothing is changed yet.
---@param buf integer
---@param edits lsp.TextEdit[]
---@param options { encoding: string, stay: boolean?, again: fun()?, tell: fun(outcome: string, texts: string[])? } `stay`:
--- whoever works elsewhere is left alone
function M.start(buf, edits, options)
  local old = api.nvim_buf_get_lines(buf, 0, -1, false)
  local found = changes(old, edited(old, edits, options.encoding))
  if #found == 0 then
    return message.say('the model left the text as it is')
  end
  begin(buf, found, options)
  reviews[buf].tell('shown', texts(reviews[buf].hunks))
  if options.stay then
    local key = config.current.review.keys.next
    local where = api.nvim_get_current_buf() == buf and '' or ' in ' .. vim.fn.fnamemodify(api.nvim_buf_get_name(buf), ':~:.')
    local what = #found == 1 and '1 change waits' or ('%d changes wait'):format(#found)
    message.when_idle(function()
      message.say(('%s for your review%s; :Diffcoder next%s goes there'):format(what, where, key and (' (%s)'):format(key) or ''))
    end)
  end
  vim.cmd.redrawstatus()
end

--- A file was read again: what waited for it waits again, where its lines are the same.
---@param buf integer
function M.restore(buf)
  local name = api.nvim_buf_get_name(buf)
  local waiting = kept[name]
  kept[name] = nil
  if not waiting or reviews[buf] then
    return
  end
  local found = vim.tbl_filter(function(each)
    return vim.deep_equal(api.nvim_buf_get_lines(buf, each.row, each.row + #each.old, false), each.old)
  end, waiting)
  if #found > 0 then
    begin(buf, found, {})
  end
  if #found < #waiting then
    message.warn(('%d proposed changes were dropped: the file is another now'):format(#waiting - #found))
  end
end

return M
