std = "lua54"
max_line_length = 120
files["spec"] = { std = "+busted" }
files["examples/*_spec.lua"] = { std = "+busted" }
files["lua/moongate/meta"] = { ignore = { "111", "112", "113", "131", "211", "212", "241", "631" } } -- a @field is one line
