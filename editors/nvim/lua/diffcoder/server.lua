--- The language server: where its program is, its life, its state, and what to do when it is not there.

local config = require('diffcoder.config')
local message = require('diffcoder.message')

local M = { name = 'diffcoder' }

---@class diffcoder.Status
---@field model string
---@field state 'off'|'starting'|'ready'|'failed'|'paused'
---@field silent string
---@field message string
---@field tokensPerSecond number
---@field tokensPerForward number
---@field lastError string

local status = {} ---@type table<integer, diffcoder.Status>
local restarting = false
local ids = {} ---@type integer[] clients that were started
local deaths = {} ---@type number[]

local DEATHS_SECONDS, MOST_DEATHS = 120, 2

--- The folder with the plugin, and the project that it lies in.
local here = vim.fs.dirname(vim.fs.dirname(vim.fs.dirname(debug.getinfo(1, 'S').source:sub(2))))
M.project = vim.fs.dirname(vim.fs.dirname(here))
M.managed = vim.fs.joinpath(vim.fn.stdpath('data'), 'diffcoder', 'venv')

--- The command of the server, and where it comes from; nil and what to do about it.
---@return string[]? cmd
---@return string from
function M.command()
  local chosen = config.current.cmd
  if chosen then
    if vim.fn.executable(chosen[1]) == 1 then
      return chosen, 'the option cmd'
    end
    return nil, ('the option cmd names %s, which cannot be run: correct it'):format(chosen[1])
  end
  local named = vim.env.DIFFCODER
  if named and named ~= '' then
    if vim.fn.executable(named) == 1 then
      return { named, 'lsp' }, '$DIFFCODER'
    end
    return nil, ('$DIFFCODER names %s, which cannot be run: correct it or unset it'):format(named)
  end
  local own = vim.fs.joinpath(M.managed, vim.fn.has('win32') == 1 and 'Scripts/diffcoder.exe' or 'bin/diffcoder')
  if vim.fn.executable(own) == 1 then
    return { own, 'lsp' }, ':Diffcoder install'
  end
  if vim.fn.executable('diffcoder') == 1 then
    return { 'diffcoder', 'lsp' }, 'PATH'
  end
  return nil, 'the server is not installed: run :Diffcoder install, or set cmd or $DIFFCODER to where it is'
end

--- Another command of the same program, such as `diffcoder model list`: the server's without what makes it the server.
---@param ... string
---@return string[]?
function M.program(...)
  local cmd = M.command()
  if cmd then
    local program = vim.iter(cmd):enumerate():find(function(_, word)
      return word == 'lsp'
    end)
    return vim.list_extend(vim.list_slice(cmd, 1, (program or #cmd + 1) - 1), { ... })
  end
end

---@param buf integer?
---@return vim.lsp.Client?
function M.client(buf)
  return vim.lsp.get_clients({ name = M.name, bufnr = buf })[1]
end

--- The client of a buffer, or nil and a message with what mends it.
---@param buf integer
---@return vim.lsp.Client?
function M.need(buf)
  local client = M.client(buf)
  if client then
    return client
  end
  if vim.bo[buf].buftype ~= '' or vim.api.nvim_buf_get_name(buf) == '' then
    message.warn('this buffer is no file: save it under a name first')
    return nil
  end
  local cmd, why = M.command()
  if not cmd then
    message.ask(why, { { 'Install it now (a Python environment in ' .. M.managed .. ')', M.install }, { 'Not now', function() end } })
  else
    message.ask('the server does not run', { { 'Start it', M.restart }, { 'Show the log', M.log }, { 'Not now', function() end } })
  end
  return nil
end

---@param client vim.lsp.Client
---@return diffcoder.Status?
function M.status(client)
  return status[client.id]
end

--- Ask for the status; the answer's numbers are newer than those of the last notification.
---@param client vim.lsp.Client
function M.refresh(client)
  client:request('diffcoder/status', vim.empty_dict(), function(err, result)
    if not err and result then
      status[client.id] = result
      vim.cmd.redrawstatus()
    end
  end)
end

local function on_status(_, params, ctx)
  local client, last = vim.lsp.get_client_by_id(ctx.client_id), status[ctx.client_id]
  status[ctx.client_id] = params
  vim.cmd.redrawstatus()
  if client and params.state == 'ready' and last and last.state ~= 'ready' then
    require('diffcoder.inline').retry(client)
  end
  if client and params.silent == 'untrusted' then
    message.once(params.message .. ' `:Diffcoder trust` trusts it.')
  end
end

--- Questions of the server wait until they take no keys from somebody who types.
local function on_question(_, params)
  local thread = coroutine.running()
  local answer = vim.NIL
  local function choose()
    message.select(params.actions, {
      prompt = params.message,
      format_item = function(action)
        return action.title
      end,
    }, function(action)
      vim.schedule(function()
        coroutine.resume(thread, action or vim.NIL)
      end)
    end)
  end
  if thread and #(params.actions or {}) > 0 then
    message.when_idle(choose)
    answer = coroutine.yield()
  end
  return answer
end

local function on_exit(code, signal, id)
  status[id] = nil
  vim.schedule(function()
    require('diffcoder.edit').lost(id)
  end)
  if restarting or vim.v.exiting ~= vim.NIL or (code == 0 and signal == 0) then
    return
  end
  vim.schedule(function()
    local now = vim.uv.now() / 1000
    deaths = vim.tbl_filter(function(time)
      return now - time < DEATHS_SECONDS
    end, deaths)
    table.insert(deaths, now)
    local what = signal ~= 0 and ('signal %d'):format(signal) or ('exit status %d'):format(code)
    if #deaths > MOST_DEATHS then
      message.warn(('the server ends again and again (%s): see :Diffcoder log and :checkhealth diffcoder'):format(what))
    else
      message.warn(('the server ended (%s) and is started again'):format(what))
      M.restart()
    end
  end)
end

local function trusted(root)
  local wanted = config.current.trusted
  if wanted ~= 'ask' then
    return wanted
  end
  return root ~= nil and require('diffcoder.trust').has(root)
end

local function settings()
  return vim.tbl_deep_extend('force', { drafts = config.current.drafts }, config.current.settings)
end

---@param client vim.lsp.Client
---@param buf integer
local function on_attach(client, buf)
  if not vim.tbl_contains(ids, client.id) then
    table.insert(ids, client.id)
  end
  local info = client.server_info or {}
  local version = require('diffcoder').version
  if info.version and info.version ~= version then
    message.once(
      ('the server is version %s and the plugin %s: update the older one (:Diffcoder install installs this one)'):format(
        info.version,
        version
      )
    )
  end
  require('diffcoder.inline').attach(client, buf)
end

--- Tell Neovim of the server and start it for every file that is open or will be.
function M.start()
  local cmd, why = M.command()
  if not cmd then
    return message.once(why)
  end
  local capabilities = vim.lsp.protocol.make_client_capabilities()
  if config.current.inline.enable then
    capabilities.textDocument.inlineCompletion = capabilities.textDocument.inlineCompletion or { dynamicRegistration = false }
  end
  vim.lsp.config(M.name, {
    cmd = cmd,
    root_markers = { 'diffcoder.toml', '.git' },
    capabilities = capabilities,
    settings = { diffcoder = settings() },
    before_init = function(params, client)
      -- The model is read at the start, before the client's settings are asked for.
      params.initializationOptions = vim.tbl_extend('force', settings(), { trusted = trusted(client.root_dir) })
    end,
    on_attach = on_attach,
    on_exit = on_exit,
    handlers = {
      ['diffcoder/status'] = on_status,
      ['diffcoder/draft'] = function(_, params)
        require('diffcoder.draft').on_draft(params)
      end,
      ['window/showMessageRequest'] = on_question,
    },
  })
  vim.lsp.enable(M.name)
end

--- Stop what runs, wait until it has gone, start again. A second call while one is under way does nothing.
function M.restart()
  if restarting then
    return
  end
  restarting = true
  vim.lsp.enable(M.name, false)
  local waited, timer = 0, assert(vim.uv.new_timer())
  timer:start(0, 50, vim.schedule_wrap(function()
    if timer:is_closing() then
      return
    end
    -- A client that is stopped is no longer listed, but what it leaves behind is cleared only when it has gone.
    local alive = vim.tbl_filter(function(id)
      return vim.lsp.get_client_by_id(id) ~= nil
    end, ids)
    for _, id in ipairs(alive) do
      if waited == 0 or waited == 3000 then
        vim.lsp.get_client_by_id(id):stop(waited > 0)
      end
    end
    waited = waited + 50
    if #alive == 0 or waited > 8000 then
      timer:close()
      restarting, ids = false, {}
      M.start()
    end
  end))
end

function M.log()
  vim.cmd.split(vim.lsp.log and vim.lsp.log.get_filename() or vim.lsp.get_log_path())
  vim.cmd('normal! G')
end

--- A Python to install with, or nil and why there is none.
---@return string? name
---@return string? why
local function find_python()
  local code = "import sys, venv; print('%d.%d' % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))"
  local old ---@type string?
  for _, name in ipairs({ 'python3.14', 'python3.13', 'python3.12', 'python3.11', 'python3', 'python' }) do
    if vim.fn.executable(name) == 1 then
      local out = vim.system({ name, '-I', '-c', code }, { text = true, timeout = 10000 }):wait()
      if out.code == 0 then
        return name
      end
      old = old or vim.trim(out.stdout or '')
    end
  end
  if old and old ~= '' then
    return nil, ('the server needs Python 3.11 or newer, and here is %s'):format(old)
  end
  return nil, 'there is no Python that can make environments'
end

--- Install the server of this checkout into an environment of its own, in a terminal where its progress can be seen.
function M.install()
  local python, why = find_python()
  if not python then
    return message.warn(why .. ': install Python 3.11 or newer with venv, then run :Diffcoder install again')
  end
  local bin = vim.fs.joinpath(M.managed, vim.fn.has('win32') == 1 and 'Scripts' or 'bin', 'python')
  local constraints = vim.fs.joinpath(M.project, 'constraints.txt')
  if not vim.uv.fs_stat(constraints) then
    return message.warn('this plugin does not lie in its project, so there is nothing to install: set cmd or $DIFFCODER')
  end
  local torch = vim.iter(io.lines(constraints)):find(function(line)
    return vim.startswith(line, 'torch==')
  end)
  local pip = { bin, '-m', 'pip', '--disable-pip-version-check', 'install', '-c', constraints }
  -- torch first and alone, so that pip takes the CPU build of exactly this version where its settings offer one.
  local steps = {
    { python, '-m', 'venv', M.managed },
    vim.list_extend(vim.deepcopy(pip), { torch }),
    vim.list_extend(vim.deepcopy(pip), { M.project }),
  }
  require('diffcoder.terminal').run(steps, function(ok)
    if not ok then
      return message.warn('the server could not be installed: the terminal says why')
    end
    message.say('the server is installed')
    M.restart()
  end)
end

return M
