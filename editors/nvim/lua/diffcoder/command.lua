--- `:Diffcoder`: one command, its subcommands, and their completion.

local edit = require('diffcoder.edit')
local inline = require('diffcoder.inline')
local message = require('diffcoder.message')
local review = require('diffcoder.review')
local server = require('diffcoder.server')

local M = {}

local api = vim.api

--- Run one of the server's commands that take no document.
local function execute(command, done)
  local client = server.need(api.nvim_get_current_buf())
  if client then
    local params = { command = command, arguments = { vim.empty_dict() } }
    client:request('workspace/executeCommand', params, function(err, result)
      if err then
        return message.warn(err.message)
      end
      done(result, client)
    end)
  end
end

local function show_prompt()
  execute('diffcoder.showPrompt', function(result)
    if result == nil or result == vim.NIL then
      return message.say('nothing was sent to the model yet')
    end
    vim.cmd('botright new')
    local buf = api.nvim_get_current_buf()
    vim.bo[buf].buftype, vim.bo[buf].bufhidden, vim.bo[buf].swapfile = 'nofile', 'wipe', false
    api.nvim_buf_set_lines(buf, 0, -1, false, vim.split(result, '\n', { plain = true }))
    vim.bo[buf].filetype, vim.bo[buf].modifiable = 'json', false
    vim.keymap.set('n', 'q', '<Cmd>close<CR>', { buffer = buf, desc = 'diffcoder: close' })
  end)
end

local function show_status()
  local client = server.need(api.nvim_get_current_buf())
  if not client then
    return
  end
  client:request('diffcoder/status', vim.empty_dict(), function(err, status)
    if err then
      return message.warn(err.message)
    end
    local lines = {
      ('%s: %s'):format(status.model, status.state),
      ('%.0f tokens a second, %.1f tokens a forward'):format(status.tokensPerSecond, status.tokensPerForward),
      ('%d suggestions shown, %d of them without asking the model'):format(status.suggestions, status.reused),
    }
    if status.silent ~= 'none' then
      table.insert(lines, ('the last suggestion was not shown: %s'):format(status.silent))
    end
    for _, text in ipairs({ status.message, status.lastError }) do
      if text ~= '' then
        table.insert(lines, text)
      end
    end
    message.say(table.concat(lines, '\n'))
  end)
end

---@param name string
local function use_model(name)
  local config = require('diffcoder.config')
  config.current.settings.model = name
  message.say(('the model is %s now; `settings = { model = %q }` keeps it'):format(name, name))
  server.restart()
end

--- Fetch a model in sight; what is interrupted goes on from there the next time.
local function pull(model)
  require('diffcoder.terminal').run({ assert(server.program('model', 'pull', model.name)) }, function(ok)
    if ok then
      use_model(model.name)
    else
      message.warn(('%s was not fetched: the terminal says why; a next try goes on from there'):format(model.name))
    end
  end)
end

--- Choose among the models; one that is not here is fetched first.
---@param wanted string?
local function choose_model(wanted)
  execute('diffcoder.models', function(models)
    local function take(model)
      if model and vim.tbl_contains({ 'missing', 'partial' }, model.state) then
        pull(model)
      elseif model then
        use_model(model.name)
      end
    end
    if wanted then
      local _, model = vim.iter(ipairs(models)):find(function(_, each)
        return each.name == wanted
      end)
      if not model then
        message.warn(('there is no model %q: `:Diffcoder model` lists them'):format(wanted))
      end
      return take(model)
    end
    message.select(models, {
      prompt = 'Model (download, memory, licence): ',
      format_item = function(model)
        local here = vim.tbl_contains({ 'missing', 'partial' }, model.state) and 'fetch' or 'here '
        local sizes = ('%5.1f GB %5.1f GB'):format(model.bytes / 1e9, model.memory / 1e9)
        return ('%s  %-28s %s  %s'):format(here, model.name, sizes, model.licence)
      end,
    }, take)
  end)
end

local function show_statistics()
  execute('diffcoder.statistics', function(counts)
    local names = { inline = 'ghost text', edit = 'edits', gap = 'gaps' }
    local lines = { 'on this machine, told to nobody:' }
    for _, count in ipairs(counts) do
      table.insert(lines, ('%-10s %d shown, %d accepted, %d rejected; a minute later %d kept, %d gone'):format(
        names[count.kind] or count.kind, count.shown, count.accepted, count.rejected, count.kept, count.gone
      ))
    end
    message.say(table.concat(lines, '\n'))
  end)
end

--- Let the model learn this project, in sight; then ask whether to use what it learnt.
---@param options string
local function tune(options)
  local client = server.client(0)
  local root = client and client.root_dir or vim.fs.root(0, '.git')
  local program = server.program('tune')
  if not root or not program then
    return message.warn(root and 'the server is not installed: run :Diffcoder install' or 'this file lies in no project: open one of a git repository')
  end
  local words = vim.split(options, '%s+', { trimempty = true })
  local status = client and server.status(client)
  local model = status and { '--model', status.model } or {}
  local command = vim.iter({ program, model, words, { root } }):flatten():totable()
  local named = {} -- which run it is, in the words given
  for index, word in ipairs(words) do
    if word == '--run' or word == '--model' or word == '--recipe' then
      vim.list_extend(named, { word, words[index + 1] })
    end
  end
  local use = vim.iter({ program, model, named, { '--use', root } }):flatten():totable()
  require('diffcoder.terminal').run({ command }, function(ok)
    if not ok then
      return message.warn('the tuning ended early: the terminal says why; `:Diffcoder tune --resume` goes on')
    elseif vim.list_contains(words, '--dry-run') or vim.list_contains(words, '--use') or vim.list_contains(words, '--off') then
      return
    end
    message.ask('use what was learnt of this project?', {
      {
        'Use it, if it is better',
        function()
          require('diffcoder.terminal').run({ use }, function() end, true)
        end,
      },
      { 'Not now', function() end },
    })
  end, true)
end

local function trust()
  local client = server.client(0)
  local root = client and client.root_dir or vim.fs.root(0, { 'diffcoder.toml', '.git' }) or vim.fn.getcwd()
  require('diffcoder.trust').add(root)
  message.say(root .. ' is trusted now')
  server.restart()
end

local function from_insert(work)
  return function()
    if not work() then
      message.say('there is no suggestion')
    end
  end
end

---@class diffcoder.Subcommand
---@field run fun(argument: string, first: integer?, last: integer?)
---@field what string

---@type table<string, diffcoder.Subcommand>
M.subcommands = {
  edit = {
    what = 'rewrite lines as an instruction says',
    run = function(argument, first, last)
      edit.edit(first, last, argument ~= '' and argument or nil)
    end,
  },
  fill = {
    what = 'fill the gaps of the file, or of the lines',
    run = function(_, first, last)
      edit.fill(first, last)
    end,
  },
  implement = { what = 'write the body of the stub at the cursor', run = edit.implement },
  fix = { what = 'fix a diagnostic of this line', run = edit.fix },
  cancel = {
    what = 'stop what the model does here',
    run = function()
      edit.cancel(api.nvim_get_current_buf())
    end,
  },
  suggest = {
    what = 'suggest at the cursor, with alternatives',
    run = from_insert(function()
      return inline.cycle(1)
    end),
  },
  accept = { what = 'take the change at the cursor', run = review.accept },
  reject = { what = 'leave the change at the cursor', run = review.reject },
  accept_all = { what = 'take every change', run = review.accept_all },
  reject_all = {
    what = 'leave every change',
    run = function()
      review.reject_all()
    end,
  },
  next = { what = 'go to the next change', run = review.next },
  previous = { what = 'go to the change before', run = review.previous },
  again = { what = 'ask again, with another instruction', run = review.again },
  diff = { what = 'the file beside what it would be', run = review.diff },
  model = {
    what = 'choose the model; fetch it where it is missing',
    run = function(argument)
      choose_model(argument ~= '' and argument or nil)
    end,
  },
  stats = { what = 'how many suggestions were taken and kept', run = show_statistics },
  tune = { what = 'let the model learn this project, on this machine', run = tune },
  prompt = { what = 'exactly what was sent to the model last', run = show_prompt },
  status = { what = 'model, state, speed, and why nothing was shown', run = show_status },
  pause = {
    what = 'suggest and edit nothing until resumed',
    run = function()
      execute('diffcoder.pause', function()
        message.say('paused')
      end)
    end,
  },
  resume = {
    what = 'go on',
    run = function()
      execute('diffcoder.resume', function()
        message.say('at work again')
      end)
    end,
  },
  restart = { what = 'start the server anew', run = server.restart },
  install = { what = 'install the server into an environment of its own', run = server.install },
  trust = { what = 'trust the folder of this file', run = trust },
  log = { what = "Neovim's log of language servers", run = server.log },
}

---@param call vim.api.keyset.create_user_command.command_args
function M.run(call)
  local name, argument = call.args:match('^%s*(%S*)%s*(.-)%s*$')
  if name == '' then
    name = 'status'
  end
  local sub = M.subcommands[name]
  if not sub then
    return message.warn(('there is no :Diffcoder %s; <Tab> lists what there is'):format(name))
  end
  local first, last
  if call.range > 0 then
    first, last = call.line1, call.line2
  end
  sub.run(argument, first, last)
end

---@param lead string
---@param line string
function M.complete(lead, line)
  local words = vim.split(line:match('Diffcoder!?%s+(.*)$') or '', '%s+')
  local names = {}
  if #words <= 1 then
    names = vim.tbl_keys(M.subcommands)
  elseif words[1] == 'model' and #words == 2 then
    names = { 'default', 'large', 'tiny' }
  end
  table.sort(names)
  return vim.tbl_filter(function(name)
    return vim.startswith(name, lead)
  end, names)
end

return M
