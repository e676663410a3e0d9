--[[
report: the table on the terminal, build/bench/bench.json, and the chart (chart.lua).
]]

local bench = require "bench"
local rounds = require "rounds"

local report = {}

local PEERS = { "hitch", "haproxy", "nginx", "stunnel" }

local function digits(value)
    if value >= 100 then
        return ("%.0f"):format(value)
    elseif value >= 10 then
        return ("%.1f"):format(value)
    end
    return ("%.3f"):format(value)
end

-- `text` in `width` columns; UTF-8 letters count as one.
local function pad(text, width, left)
    local spaces = (" "):rep(math.max(0, width - (utf8.len(text) or #text)))
    return left and text .. spaces or spaces .. text
end

local function ratio_text(row, subject, other)
    local ratio, spread, count = rounds.ratio(row, subject, other)
    if not ratio then
        return row.notes[other] and "?" or "–"
    elseif count == 1 then
        return ("%.2f once"):format(ratio)
    end
    return ("%.2f ±%.2f"):format(ratio, spread)
end

local function verdict(row)
    local best, who = rounds.best(row)
    local met, bounds = rounds.met(row), {}
    if best and row.target then
        bounds[1] = ("%s %.2f"):format(row.more and "≥" or "≤", row.target)
    end
    if row.most then
        bounds[#bounds + 1] = ("≤ %g %s"):format(row.most, row.unit)
    end
    local text = best and ("%.2f %s"):format(best, who) or ""
    if met ~= nil then
        text = ("%s (%s: %s)"):format(text, table.concat(bounds, ", "), met and "met" or "missed")
    end
    return text
end

local function print_columns(title, metric, own, ratios, copy, limit, best)
    local line = { pad(title, 52, true), pad(metric, 10, true), pad(own, 22) }
    for _, text in ipairs(ratios) do
        line[#line + 1] = pad(text, 12)
    end
    line[#line + 1] = pad(copy, 12)
    line[#line + 1] = pad(limit, 12)
    print(table.concat(line, " ") .. "  " .. best)
    io.stdout:flush()
end

function report.head(settings)
    print(("moongate / peer, paired per round; median ± half the distance of the quartiles; up to %d rounds of %g s")
        :format(settings.rounds, settings.each))
    print("copy: nginx' / nginx, what two copies of one program differ by; "
        .. "/limit: moongate / (plain relay + OpenSSL in memory)")
    print_columns("", "", "moongate", { "/hitch", "/haproxy", "/nginx", "/stunnel" }, "copy", "/limit",
        "/best of hitch, haproxy, nginx")
end

function report.line(row)
    local own, spread, count = rounds.median(row.values.moongate)
    local ratios = {}
    for i, peer in ipairs(PEERS) do
        ratios[i] = ratio_text(row, "moongate", peer)
    end
    local text = "–"
    if count == 1 then
        text = ("%s once %s"):format(digits(own), row.unit)
    elseif own and row.difference then
        text = ("%.1f ±%.1f %s"):format(own, spread, row.unit)
    elseif own then
        text = ("%s ±%.0f%% %s"):format(digits(own), own > 0 and 100 * spread / own or 0, row.unit)
    end
    print_columns(row.title, row.metric, text, ratios, ratio_text(row, "nginx'", "nginx"),
        ratio_text(row, "moongate", "limit"), verdict(row))
    for subject, why in pairs(row.notes) do
        print(("    %s: %s"):format(subject, why))
    end
end

-- ---- JSON --------------------------------------------------------------------------------------------

local function row_data(row)
    local best, who = rounds.best(row)
    local data = { id = row.id, title = row.title, metric = row.metric, unit = row.unit, target = row.target,
        most = row.most,
        larger_is_better = row.more or false, best_ratio = best, best_peer = who, target_met = rounds.met(row),
        notes = next(row.notes) and row.notes or nil, subjects = {} }
    for subject, values in pairs(row.values) do
        local median, spread = rounds.median(values)
        local ratio, ratio_spread = rounds.ratio(row, "moongate", subject)
        local list = {}
        for _, value in pairs(values) do
            list[#list + 1] = value
        end
        data.subjects[subject] = { median = median, spread = spread, values = list,
            moongate_ratio = ratio, moongate_ratio_spread = ratio_spread }
    end
    return data
end

function report.finish(all, settings, seconds)
    local cjson = require "cjson"
    local rows = {}
    for i, row in ipairs(all) do
        rows[i] = row_data(row)
    end
    local directory = bench.absolute(bench.build .. "/bench/")
    bench.write(directory .. "bench.json", cjson.encode { rounds = settings.rounds, seconds_each = settings.each,
        quick = settings.quick and true or false, rows = rows } .. "\n")
    bench.write(directory .. "bench.svg", require("chart").draw(all))
    print(("%.0f s; %s/bench/bench.json, %s/bench/bench.svg"):format(seconds, bench.build, bench.build))
end

return report
