--- What `moongate test` runs: busted's own runner, with the arguments in `arg`. It ends the process itself.

local found, run = pcall(require, "busted.runner")
if not found then
  if not tostring(run):find("module 'busted.runner' not found", 1, true) then
    error(run, 0)
  end
  error("busted is not installed (Debian's package is lua-busted)", 0)
end
run { standalone = false }
