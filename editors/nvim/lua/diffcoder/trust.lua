--- The folders that the user trusts, one a line in Neovim's state folder; read when `trusted` is 'ask'.

local M = {}

local file = vim.fs.joinpath(vim.fn.stdpath('state'), 'diffcoder', 'trusted')

---@return string[]
local function folders()
  return vim.uv.fs_stat(file) and vim.fn.readfile(file) or {}
end

--- Whether a folder or one above it is trusted.
---@param folder string
function M.has(folder)
  local path = vim.fs.normalize(folder)
  return vim.iter(folders()):any(function(each)
    return path == each or vim.startswith(path, each .. '/')
  end)
end

---@param folder string
function M.add(folder)
  if not M.has(folder) then
    vim.fn.mkdir(vim.fs.dirname(file), 'p')
    vim.fn.writefile({ vim.fs.normalize(folder) }, file, 'a')
  end
end

return M
