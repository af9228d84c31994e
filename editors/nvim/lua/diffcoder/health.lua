--- `:checkhealth diffcoder`: what works in this Neovim, what the server says of this machine, what to do about the rest.

local M = {}

function M.check()
  local health = vim.health
  local server = require('diffcoder.server')
  local config = require('diffcoder.config').current
  local version = require('diffcoder').version

  health.start('diffcoder: this Neovim')
  if vim.fn.has('nvim-0.11') == 0 then
    return health.error('Neovim 0.11 or newer is needed', 'Update Neovim.')
  end
  health.ok('Neovim ' .. tostring(vim.version()))
  if vim.fn.exists(':Diffcoder') == 0 then
    health.error('the plugin is not set up', "Call require('diffcoder').setup() in your configuration.")
  end
  if vim.lsp.inline_completion and config.inline.native then
    health.ok('ghost text: vim.lsp.inline_completion')
  else
    health.ok("ghost text: the plugin's own")
  end
  for _, name in ipairs({ 'accept', 'accept_word', 'accept_line', 'next', 'previous', 'dismiss' }) do
    local lhs = config.keys[name]
    local mapping = lhs and vim.fn.maparg(lhs, 'i', false, true) or {}
    if mapping.lhs and mapping.buffer == 1 and not vim.startswith(mapping.desc or '', 'diffcoder') then
      health.warn(('%s is mapped by something else in this buffer, so it does not %s'):format(lhs, name))
    end
  end

  health.start('diffcoder: the server')
  local cmd, from = server.command()
  if not cmd then
    return health.error(from, 'Run :Diffcoder install, or set cmd or $DIFFCODER.')
  end
  health.ok(('%s (from %s)'):format(table.concat(cmd, ' '), from))
  local function call(...)
    local out = vim.system(server.program(...), { text = true, timeout = 60000 }):wait()
    return out.code, vim.trim(out.stdout or ''), vim.trim(out.stderr or '')
  end
  local code, said, complaint = call('--version')
  local found = said:match('(%d+%.%d+%.%d+%S*)')
  if code ~= 0 then
    return health.error('it does not run: ' .. complaint, 'Run :Diffcoder install.')
  elseif found == version then
    health.ok('version ' .. version .. ', as the plugin')
  else
    health.warn(('the server is version %s and the plugin %s'):format(found or said, version), 'Update the older one.')
  end
  local clients = vim.lsp.get_clients({ name = server.name })
  if #clients == 0 then
    health.info('it does not run now: open a file of a project')
  end
  for _, client in ipairs(clients) do
    local status = server.status(client)
    health.ok(('it runs for %s: %s'):format(client.root_dir or 'single files', status and status.state or 'no status yet'))
  end

  health.start('diffcoder: this machine (diffcoder doctor)')
  local _, report, trouble = call('doctor', '--json')
  local ok, checks = pcall(vim.json.decode, report)
  if not ok then
    return health.error('diffcoder doctor does not answer: ' .. trouble)
  end
  for _, check in ipairs(checks) do
    local say = ({ ok = health.ok, warning = health.warn, problem = health.error })[check.state] or health.info
    local text = ('%s: %s'):format(check.name, check.detail)
    say(text, check.advice ~= '' and check.state ~= 'ok' and check.advice or nil)
  end
end

return M
