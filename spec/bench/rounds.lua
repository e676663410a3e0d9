--[[
rounds: runs a scenario against its subjects, interleaved: A B C D, B C D A, …; what disturbs the machine
meanwhile disturbs all of them, and a ratio is made of two figures of the same round.

A row is what one metric of a scenario came to:
    { id=, title=, metric=, unit=, more = larger is better, target = of the ratio, most = of the figure,
      values = { subject → { round → number } }, notes = { subject → why it has none } }
]]

local bench = require "bench"

local rounds = {}

-- Row of `scenario` for `metric`.
function rounds.row(scenario, metric, first)
    return {
        id = scenario.id, title = scenario.title, metric = metric.name, unit = metric.unit, more = metric.more,
        target = first and scenario.target or nil, values = {}, notes = {},
    }
end

function rounds.put(row, subject, round, value)
    row.values[subject] = row.values[subject] or {}
    row.values[subject][round] = value
end

-- Runs `once(subject)` → a list of values (one for each row) or nil, why – for each subject in each round. Begins
-- no round after `deadline`, but the first one is always whole.
function rounds.run(rows, subjects, settings, once)
    local deadline = bench.now() + settings.seconds
    for round = 1, settings.rounds do
        if round > 1 and bench.now() > deadline then
            break
        end
        for step = 0, #subjects - 1 do
            local subject = subjects[(round - 1 + step) % #subjects + 1]
            local values, why = once(subject)
            for i, row in ipairs(rows) do
                if values then
                    rounds.put(row, subject.name, round, values[i])
                else
                    row.notes[subject.name] = why
                end
            end
        end
    end
    return rows
end

-- ---- figures of a row --------------------------------------------------------------------------------

local function quantile(sorted, share)
    local at = 1 + (#sorted - 1) * share
    local low = math.floor(at)
    local high = math.min(low + 1, #sorted)
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
end

-- Median, half the distance between the quartiles, and number of any table's values; nil without one.
function rounds.median(values)
    local sorted = {}
    for _, value in pairs(values or {}) do
        sorted[#sorted + 1] = value
    end
    if #sorted == 0 then
        return nil
    end
    table.sort(sorted)
    return quantile(sorted, 0.5), (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / 2, #sorted
end

-- Median, spread and number of `subject` / `other`, paired round by round.
function rounds.ratio(row, subject, other)
    local ratios = {}
    for round, value in pairs(row.values[subject] or {}) do
        local base = (row.values[other] or {})[round]
        if base and base > 0 then
            ratios[round] = value / base
        end
    end
    return rounds.median(ratios)
end

local RIVALS = { "hitch", "haproxy", "nginx" }

-- The ratio to the strongest of the three, and its name.
function rounds.best(row)
    local best, who
    for _, rival in ipairs(RIVALS) do
        local ratio = rounds.ratio(row, "moongate", rival)
        if ratio and (not best or (row.more and ratio < best) or (not row.more and ratio > best)) then
            best, who = ratio, rival
        end
    end
    return best, who
end

-- Whether the row's target is met – `target`, of the ratio, and `most`, of the figure itself; nil without either.
function rounds.met(row)
    local best, own = rounds.best(row), rounds.median(row.values.moongate)
    if not own or not (row.target and best or row.most) then
        return nil
    end
    local met = not row.most or own <= row.most
    if row.target and best and row.more then
        return met and best >= row.target
    elseif row.target and best then
        return met and best <= row.target
    end
    return met
end

return rounds
