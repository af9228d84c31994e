--- diffcoder for Neovim 0.11 and newer: ghost text, edits that are reviewed hunk by hunk, gaps that are filled
--- together. `setup` is all that a configuration calls; `:help diffcoder` says the rest.

local M = { version = '0.1.0' }

---@param options diffcoder.Config?
function M.setup(options)
  if vim.fn.has('nvim-0.11') == 0 then
    return vim.notify('diffcoder: Neovim 0.11 or newer is needed: update it', vim.log.levels.ERROR)
  end
  local message = require('diffcoder.message')
  local problems = require('diffcoder.config').set(options)
  if #problems > 0 then
    message.warn(table.concat(problems, '\n'))
  end
  local look = require('diffcoder.look')
  look.define()
  local group = vim.api.nvim_create_augroup('diffcoder', { clear = true })
  vim.api.nvim_create_autocmd('ColorScheme', { group = group, callback = look.define })
  vim.api.nvim_create_autocmd('BufReadPost', {
    group = group,
    callback = function(event)
      require('diffcoder.review').restore(event.buf)
    end,
  })
  vim.api.nvim_create_user_command('Diffcoder', function(call)
    require('diffcoder.command').run(call)
  end, {
    nargs = '*',
    range = true,
    desc = 'diffcoder: edit, fill, fix, review; <Tab> lists all',
    complete = function(lead, line)
      return require('diffcoder.command').complete(lead, line)
    end,
  })
  require('diffcoder.server').start()
end

--- For a status line: the model, what it does, how fast it was.
---@return string
function M.statusline()
  local server = require('diffcoder.server')
  local buf = vim.api.nvim_get_current_buf()
  local client = server.client(buf)
  if not client then
    return ''
  end
  local waiting = require('diffcoder.review').waiting(buf)
  if waiting > 0 then
    return ('diffcoder: %d to review'):format(waiting)
  end
  local status = server.status(client)
  if not status then
    return 'diffcoder'
  end
  if status.state == 'ready' then
    local speed = status.tokensPerSecond > 0
        and (' %.0f tok/s ×%.1f'):format(status.tokensPerSecond, status.tokensPerForward)
      or ''
    return ('diffcoder: %s%s'):format(status.model, speed)
  end
  local words = { off = 'asleep', starting = 'starting…', failed = 'failed (:Diffcoder status)', paused = 'paused' }
  return 'diffcoder: ' .. words[status.state]
end

--- For mappings of your own in insert mode; each says whether there was anything to do.
function M.accept()
  return require('diffcoder.inline').accept('all')
end

function M.accept_word()
  return require('diffcoder.inline').accept('word')
end

function M.accept_line()
  return require('diffcoder.inline').accept('line')
end

function M.next()
  return require('diffcoder.inline').cycle(1)
end

function M.previous()
  return require('diffcoder.inline').cycle(-1)
end

function M.dismiss()
  return require('diffcoder.inline').dismiss()
end

return M
