--- Long work of other programs, one after the other, in a terminal below: its progress is seen, and <C-c> stops it.

local M = {}

---@param steps string[][]
---@param done fun(ok: boolean)
---@param stays boolean? the terminal stays when all went well
function M.run(steps, done, stays)
  local origin = vim.api.nvim_get_current_win()
  vim.cmd('botright 8new')
  local window = vim.api.nvim_get_current_win()
  local function step(number)
    if not vim.api.nvim_win_is_valid(window) then
      return done(false)
    end
    vim.api.nvim_win_call(window, function()
      if number > 1 then
        vim.cmd.enew()
      end
      local buf = vim.api.nvim_get_current_buf()
      vim.bo[buf].bufhidden = 'wipe'
      vim.keymap.set('n', '<C-c>', function()
        vim.fn.jobstop(vim.bo[buf].channel)
      end, { buffer = buf, desc = 'diffcoder: stop' })
      vim.fn.jobstart(steps[number], {
        term = true,
        on_exit = vim.schedule_wrap(function(_, code)
          if code == 0 and steps[number + 1] then
            return step(number + 1)
          end
          if code == 0 and not stays and vim.api.nvim_win_is_valid(window) then
            vim.api.nvim_win_close(window, true)
          end
          done(code == 0)
        end),
      })
      vim.cmd('normal! G')
    end)
  end
  step(1)
  if vim.api.nvim_win_is_valid(origin) then
    vim.api.nvim_set_current_win(origin)
  end
end

return M
