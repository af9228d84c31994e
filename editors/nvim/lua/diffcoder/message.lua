--- What the user is told, and what is asked of them. Each message says what to do; none repeats itself.

local M = {}

local told = {} ---@type table<string, boolean>

---@param text string
---@param level integer?
function M.say(text, level)
  vim.schedule(function()
    vim.notify('diffcoder: ' .. text, level or vim.log.levels.INFO)
  end)
end

---@param text string
function M.warn(text)
  M.say(text, vim.log.levels.WARN)
end

--- Run `work` as soon as it takes no keys from somebody who types.
---@param work fun()
function M.when_idle(work)
  vim.schedule(function()
    if vim.api.nvim_get_mode().mode:match('^[nvV\22]') then
      work()
    else
      vim.api.nvim_create_autocmd('ModeChanged', {
        pattern = '*:n',
        once = true,
        callback = function()
          vim.schedule(work)
        end,
      })
    end
  end)
end

--- Say something that nobody asked for: once a session, and when it is not lost on somebody who types.
---@param text string
function M.once(text)
  if not told[text] then
    told[text] = true
    M.when_idle(function()
      M.warn(text)
    end)
  end
end

--- vim.ui.select, for which an interrupt is no choice and no error.
---@param items any[]
---@param options table
---@param done fun(item: any?)
function M.select(items, options, done)
  options.kind = options.kind or 'diffcoder'
  local ok, err = pcall(vim.ui.select, items, options, done)
  if not ok then
    done(nil)
    if not tostring(err):find('interrupt') then
      error(err, 0)
    end
  end
end

--- A message with ways to mend it; nothing happens when none is chosen.
---@param text string
---@param ways { [1]: string, [2]: fun() }[]
function M.ask(text, ways)
  M.when_idle(function()
    M.select(ways, {
      prompt = 'diffcoder: ' .. text,
      format_item = function(way)
        return way[1]
      end,
    }, function(way)
      if way then
        way[2]()
      end
    end)
  end)
end

return M
