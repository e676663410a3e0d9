--[[
chart: one bar for each peer and row: what moongate costs of what the peer costs. Left of the line at 1,
moongate is cheaper; where more is better, the bar is peer / moongate, so that left is better everywhere.
]]

local rounds = require "rounds"

local chart = {}

local PEERS = {
    { "hitch", "#4c78a8" }, { "haproxy", "#f58518" }, { "nginx", "#54a24b" }, { "stunnel", "#b279a2" },
}
local LEFT, WIDTH, BAR, GAP, TOP = 430, 480, 7, 14, 60
local MOST = 1.5 -- what the axis ends with

local function escape(text)
    return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

local function text_at(x, y, text, more)
    return ('<text x="%g" y="%g" %s>%s</text>'):format(x, y, more or "", escape(text))
end

local function bar(y, ratio, colour)
    local shown = math.min(ratio, MOST)
    return ('<rect x="%g" y="%g" width="%.1f" height="%g" fill="%s"/>%s'):format(LEFT, y, shown / MOST * WIDTH,
        BAR - 1, colour, text_at(LEFT + shown / MOST * WIDTH + 3, y + BAR - 1, ("%.2f"):format(ratio), 'font-size="7"'))
end

function chart.draw(rows)
    local parts, y = {}, TOP
    local function put(part)
        parts[#parts + 1] = part
    end
    for _, row in ipairs(rows) do
        local bars = {}
        for _, peer in ipairs(PEERS) do
            local ratio = rounds.ratio(row, "moongate", peer[1])
            if ratio and ratio > 0 then
                bars[#bars + 1] = { row.more and 1 / ratio or ratio, peer[2] }
            end
        end
        if #bars > 0 then
            put(text_at(LEFT - 8, y + #bars * BAR / 2 + 3, row.title .. " – " .. row.metric, 'text-anchor="end"'))
            for _, one in ipairs(bars) do
                put(bar(y, one[1], one[2]))
                y = y + BAR
            end
            y = y + GAP
        end
    end
    for tick = 0, MOST * 4 do
        local x = LEFT + tick / 4 / MOST * WIDTH
        put(('<line x1="%g" x2="%g" y1="%g" y2="%g" stroke="%s"/>'):format(x, x, TOP - 8, y,
            tick == 4 and "#000" or "#ddd"))
        put(text_at(x, TOP - 12, ("%g"):format(tick / 4), 'text-anchor="middle"'))
    end
    local x = LEFT
    for _, peer in ipairs(PEERS) do
        put(('<rect x="%g" y="12" width="10" height="10" fill="%s"/>'):format(x, peer[2]))
        put(text_at(x + 14, 21, "moongate / " .. peer[1]))
        x = x + 130
    end
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">\n'
        .. '<rect width="100%%" height="100%%" fill="#fff"/>\n%s\n%s\n</svg>\n'):format(LEFT + WIDTH + 60, y + 20,
        text_at(10, 21, "Cost of moongate as a share of each peer's; shorter is better",
            'font-weight="bold"'), table.concat(parts, "\n"))
end

return chart
