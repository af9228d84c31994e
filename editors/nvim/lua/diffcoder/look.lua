--- How it looks: highlight groups as links that any colour scheme can set, and text as virtual text takes it.

local M = {}

local LINKS = {
  DiffcoderGhost = 'ComplHint',
  DiffcoderHint = 'ComplHintMore',
  DiffcoderDraft = 'Added',
  DiffcoderUnsure = 'Changed',
  DiffcoderMask = 'NonText',
  DiffcoderSelected = 'Visual',
  DiffcoderOld = 'NonText',
  DiffcoderRemoved = 'DiffDelete',
  DiffcoderAdded = 'DiffAdd',
  DiffcoderRemovedText = 'DiffText',
  DiffcoderAddedText = 'DiffText',
  DiffcoderKey = 'Special',
}

function M.define()
  for group, link in pairs(LINKS) do
    if vim.fn.hlexists(link) == 0 then
      link = 'NonText' -- ComplHint is younger than 0.11
    end
    vim.api.nvim_set_hl(0, group, { link = link, default = true })
  end
end

--- A line with its tabs as spaces, as virtual text wants it; `column` is where it begins.
---@param buf integer
---@param line string
---@param column integer?
function M.untab(buf, line, column)
  local stop, at, out = vim.bo[buf].tabstop, column or 0, {}
  for piece, tab in line:gmatch('([^\t]*)(\t?)') do
    table.insert(out, piece)
    at = at + vim.fn.strdisplaywidth(piece)
    if tab ~= '' then
      table.insert(out, (' '):rep(stop - at % stop))
      at = at + stop - at % stop
    end
  end
  return table.concat(out)
end

return M
