--- What can be set, with its defaults. A value that is unknown or wrong gives one message and its default stays.

local M = {}

---@class diffcoder.Config
M.defaults = {
  --- The language server's command. nil: $DIFFCODER, else `diffcoder` where `:Diffcoder install` put it, else on PATH.
  ---@type string[]?
  cmd = nil,
  --- The server's settings; all of them are in docs/settings.schema.json.
  settings = {},
  --- true: every folder; false: none; 'ask': those that `:Diffcoder trust` named. Nothing of a folder that is not
  --- trusted is read or sent to the model.
  ---@type boolean|'ask'
  trusted = true,
  inline = {
    --- Ghost text at all.
    enable = true,
    --- Through vim.lsp.inline_completion where this Neovim has it (0.12).
    native = true,
  },
  --- Show what the model has written while it is still at work.
  drafts = true,
  --- Mappings, in lhs notation; false leaves one out.
  keys = {
    accept = '<Tab>',
    accept_word = '<M-w>',
    accept_line = '<M-l>',
    next = '<M-n>',
    previous = '<M-p>',
    dismiss = '<M-e>',
  },
  review = {
    --- In normal mode, in a buffer whose edit waits for your word.
    keys = {
      accept = '<CR>',
      reject = '<BS>',
      accept_all = 'g<CR>',
      reject_all = 'g<BS>',
      next = ']h',
      previous = '[h',
      again = 'gR',
      diff = 'gD',
    },
  },
}

---@type diffcoder.Config
M.current = vim.deepcopy(M.defaults)

--- Keys that may hold whatever their owner wants, and those whose default says too little about their type.
local FREE = { settings = true }
local TYPES = { cmd = { 'table' }, trusted = { 'boolean', 'string' } }

---@param name string
---@param known string[]
local function nearest(name, known)
  local best, score = nil, 3
  for _, other in ipairs(known) do
    local a, b, row = name, other, {}
    for j = 0, #b do
      row[j] = j
    end
    for i = 1, #a do
      local diagonal = row[0]
      row[0] = i
      for j = 1, #b do
        local above = row[j]
        local cost = a:sub(i, i) == b:sub(j, j) and 0 or 1
        row[j] = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
        diagonal = above
      end
    end
    if row[#b] < score then
      best, score = other, row[#b]
    end
  end
  return best
end

local function merge(defaults, given, path, problems)
  local result = vim.deepcopy(defaults)
  for key, value in pairs(given) do
    local name, default = path .. key, defaults[key]
    local types = path == '' and TYPES[key] or nil
    local is_key = path:find('keys%.$') ~= nil
    if default == nil and not types then
      local near = nearest(tostring(key), vim.tbl_keys(defaults))
      table.insert(problems, ('there is no option %s%s'):format(name, near and ('; did you mean %s%s?'):format(path, near) or ''))
    elseif path == '' and FREE[key] and type(value) == 'table' then
      result[key] = value
    elseif type(default) == 'table' and not types then
      if type(value) == 'table' then
        result[key] = merge(default, value, name .. '.', problems)
      else
        table.insert(problems, ('%s must be a table; its defaults are used'):format(name))
      end
    elseif
      vim.tbl_contains(types or { type(default) }, type(value))
      or (is_key and value == false)
    then
      result[key] = value
    else
      local wanted = is_key and 'a mapping or false' or table.concat(types or { 'a ' .. type(default) }, ' or ')
      table.insert(problems, ('%s must be %s; its default is used'):format(name, wanted))
    end
  end
  return result
end

--- Take the user's options; the sentences say what is wrong with them.
---@param given table?
---@return string[] problems
function M.set(given)
  local problems = {}
  if given ~= nil and type(given) ~= 'table' then
    given, problems = {}, { 'the options must be a table; the defaults are used' }
  end
  M.current = merge(M.defaults, given or {}, '', problems)
  local cmd = M.current.cmd
  if cmd and (not vim.islist(cmd) or #cmd == 0 or type(cmd[1]) ~= 'string') then
    table.insert(problems, "cmd must be a list such as { 'diffcoder', 'lsp' }; its default is used")
    M.current.cmd = nil
  end
  if type(M.current.trusted) == 'string' and M.current.trusted ~= 'ask' then
    table.insert(problems, "trusted must be true, false or 'ask'; nothing is trusted until it is")
    M.current.trusted = false
  end
  return problems
end

return M
