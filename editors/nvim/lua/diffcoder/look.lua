--- How it looks: highlight groups as links that any colour scheme can set, and text as virtual text takes it.

local M = {}

local LINKS = {
  DiffcoderGhost = 'ComplHint',
  DiffcoderHint = 'Comment',
  DiffcoderKey = 'Special',
  DiffcoderDraft = 'Added',
  DiffcoderUnsure = 'Changed',
  DiffcoderMask = 'Comment',
  DiffcoderSelected = 'Visual',
  DiffcoderOld = 'Comment',
}

--- Backgrounds only, so that code keeps its colours: what goes, what comes, and within them what differs.
local BACKGROUNDS = {
  dark = {
    DiffcoderRemoved = { bg = '#3a1a1f', ctermbg = 52 },
    DiffcoderRemovedText = { bg = '#75272f', ctermbg = 88 },
    DiffcoderAdded = { bg = '#12321f', ctermbg = 22 },
    DiffcoderAddedText = { bg = '#1c6135', ctermbg = 28 },
  },
  light = {
    DiffcoderRemoved = { bg = '#f7d3d3', ctermbg = 224 },
    DiffcoderRemovedText = { bg = '#eea6a6', ctermbg = 217 },
    DiffcoderAdded = { bg = '#cdeccf', ctermbg = 194 },
    DiffcoderAddedText = { bg = '#95d99c', ctermbg = 157 },
  },
}

function M.define()
  for group, link in pairs(LINKS) do
    if vim.fn.hlexists(link) == 0 then
      link = 'NonText' -- ComplHint is younger than 0.11
    end
    vim.api.nvim_set_hl(0, group, { link = link, default = true })
  end
  for group, background in pairs(BACKGROUNDS[vim.o.background]) do
    vim.api.nvim_set_hl(0, group, vim.tbl_extend('error', background, { default = true }))
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
