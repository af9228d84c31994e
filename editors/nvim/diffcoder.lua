-- diffcoder in Neovim 0.11 and newer. Put this file into ~/.config/nvim/lsp/diffcoder.lua and say
-- vim.lsp.enable('diffcoder') in init.lua.
return {
  cmd = { 'diffcoder', 'lsp' },
  root_markers = { 'diffcoder.toml', '.git' },
  settings = { diffcoder = {} },
  on_attach = function(client, buffer)
    -- Neovim 0.12 shows ghost text itself: <Tab> takes it, and is a tab where there is none.
    if vim.lsp.inline_completion then
      vim.lsp.inline_completion.enable(true, { bufnr = buffer })
      vim.keymap.set('i', '<Tab>', function()
        if not vim.lsp.inline_completion.get() then
          return '<Tab>'
        end
      end, { buffer = buffer, expr = true, desc = 'diffcoder: take the suggestion' })
    end
    local function run(command, argument)
      argument.uri = vim.uri_from_bufnr(buffer)
      client:exec_cmd({ title = command, command = command, arguments = { argument } }, { bufnr = buffer })
    end
    vim.api.nvim_buf_create_user_command(buffer, 'DiffcoderFillGaps', function()
      run('diffcoder.fillGaps', {})
    end, { desc = 'Fill each ‹?› and each stub body' })
    vim.api.nvim_buf_create_user_command(buffer, 'DiffcoderEdit', function(options)
      local range = {
        start = { line = options.line1 - 1, character = 0 },
        ['end'] = { line = options.line2, character = 0 },
      }
      run('diffcoder.edit', { range = range, instruction = options.args })
    end, { range = true, nargs = '+', desc = 'Rewrite the lines as the instruction says' })
  end,
}
