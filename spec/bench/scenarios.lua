--[[
scenarios: what the generator does to every peer in turn, as data.

    id, title      ONLY=part-of-the-id selects
    command, with  generator's command and options; `port` names the peer's (peers.lua)
    metrics        what is made of the generator's figures; the first is the one that counts
    floor          the relay's flights, and the in-memory figures of `floor` whose sum is OpenSSL's share
    split          the proxy alone on its CPU, clients and backend on another; otherwise all on one, so that
                   no wake-up of another CPU is charged to the proxy
    target         what moongate / best of hitch, HAProxy, nginx must not exceed (or be at least, with more = true)
]]

local MIB = 1024 * 1024

-- ---- metrics: { name, unit, of = function(result, scenario) → number, more = larger is better } ------

local function cpu_per(unit)
    return { name = "CPU", unit = "µs/" .. unit, of = function(result)
        return result.units > 0 and result.cpu_ns / result.units / 1000 or nil
    end }
end

local cpu_per_byte = { name = "CPU", unit = "ns/B", of = function(result)
    return result.bytes > 0 and result.cpu_ns / result.bytes or nil
end }

local throughput = { name = "throughput", unit = "MB/s", more = true, of = function(result)
    return result.bytes / result.seconds / 1e6
end }

local request_rate = { name = "rate", unit = "requests/s", more = true, of = function(result)
    return result.units / result.seconds
end }

local function latency(name)
    return { name = name, unit = "µs", of = function(result)
        return result[name .. "_us"] > 0 and result[name .. "_us"] or nil
    end }
end

-- ---- what clients offer ------------------------------------------------------------------------------

local AES, CHACHA = "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"

local function tls13(suite)
    return { tls = true, ["tls-version"] = "1.3", ciphersuites = suite or AES }
end

local function tls12()
    return { tls = true, ["tls-version"] = "1.2", ciphers = "ECDHE+AESGCM128:ECDHE+AESGCM" }
end

local function merged(...)
    local all = {}
    for _, part in ipairs { ... } do
        for key, value in pairs(part) do
            all[key] = value
        end
    end
    return all
end

local list = {}
local function add(scenario)
    list[#list + 1] = scenario
end

-- ---- connections -------------------------------------------------------------------------------------

-- Sizes of the flights of the same handshakes, as captured from OpenSSL (client:server,…/client's last).
local function handshake(id, title, port, client, flights, resume, target)
    add {
        id = id, title = title, command = "churn", port = port, target = target,
        with = merged(client, { connections = 8, resume = resume }),
        metrics = { cpu_per "connection" },
        floor = { flights = flights, memory = { { "handshake", merged(client, { resume = resume }), port } } },
    }
end

handshake("full13-ec", "full handshake, TLS 1.3, P-256", "ec", tls13(), "240:1230/74", nil, 0.93)
handshake("full13-rsa", "full handshake, TLS 1.3, RSA-2048", "rsa", tls13(), "240:1700/74", nil, 0.93)
handshake("full13-tickets2", "full handshake, TLS 1.3, P-256, 2 tickets", "tickets2", tls13(), "240:1230/74")
handshake("full12-ec", "full handshake, TLS 1.2, P-256", "ec", tls12(), "190:1110,126:258/0")
handshake("full12-rsa", "full handshake, TLS 1.2, RSA-2048", "rsa", tls12(), "190:1640,126:258/0")
handshake("resume13", "resumption, TLS 1.3", "ec", tls13(), "460:230/74", "ticket", 0.93)
handshake("resume12", "resumption, TLS 1.2, ticket", "ec", tls12(), "390:140/51", "ticket", 0.92)
handshake("resume12-id", "resumption, TLS 1.2, session id", "ec", tls12(), "220:140/51", "id")
add {
    id = "plain", title = "plain TCP, connection", command = "churn", port = "plain",
    with = { connections = 8 }, metrics = { cpu_per "connection" }, floor = { memory = {} },
}
add {
    id = "ttfb", title = "connect to first byte, TLS 1.3, P-256", command = "churn", port = "ec",
    with = merged(tls13(), { connections = 1 }), metrics = { latency "p50", latency "p99" }, split = true,
}

-- ---- bytes -------------------------------------------------------------------------------------------

local function transfer(id, title, direction, suite, connections, target)
    local down = direction == "download"
    add {
        id = id, title = title, command = "exchange", port = "ec", target = target,
        with = merged(tls13(suite), { connections = connections,
            brings = down and 0 or 8 * MIB, wants = down and 8 * MIB or 16 }),
        metrics = { cpu_per_byte },
        floor = { memory = { { down and "encrypt" or "decrypt", tls13(suite), "ec" } } },
    }
end

transfer("download-aes-1", "download, AES-128-GCM, 1 connection", "download", AES, 1, 0.84)
transfer("download-aes-4", "download, AES-128-GCM, 4 connections", "download", AES, 4, 0.84)
transfer("upload-aes-1", "upload, AES-128-GCM, 1 connection", "upload", AES, 1, 0.72)
transfer("upload-aes-4", "upload, AES-128-GCM, 4 connections", "upload", AES, 4, 0.72)
transfer("download-chacha-4", "download, ChaCha20, 4 connections", "download", CHACHA, 4)
transfer("upload-chacha-4", "upload, ChaCha20, 4 connections", "upload", CHACHA, 4)
add {
    id = "saturated", title = "one worker saturated, download, AES-128-GCM", command = "raw", port = "ec",
    with = merged(tls13(), { connections = 1 }), metrics = { throughput, cpu_per_byte }, split = true, target = 1.9,
    floor = { memory = { { "encrypt", tls13(), "ec" } } },
}

-- ---- requests ----------------------------------------------------------------------------------------

local function request(id, title, size, rate, target)
    local with = merged(tls13(), { connections = 32, brings = size - 16, wants = size, rate = rate })
    local record = { "request", merged(tls13(), { size = size }), "ec" }
    if not rate then
        add { id = id, title = title .. ", full rate", command = "exchange", port = "ec", with = with,
            target = target, metrics = { cpu_per "request" }, floor = { memory = { record } } }
        add { id = id .. "-max", title = title .. ", proxy on a CPU of its own", command = "exchange", port = "ec",
            with = with, split = true, metrics = { request_rate, latency "p50", latency "p99" } }
    else
        add { id = id, title = ("%s, %d a second"):format(title, rate), command = "exchange", port = "ec",
            with = with, split = true, fifo = true,
            metrics = { cpu_per "request", latency "p50", latency "p99" } }
    end
end

request("request-100", "requests of 100 B", 100, nil, 0.84)
request("request-16k", "requests of 16 KiB", 16384, nil, 0.88)
request("request-100-fixed", "requests of 100 B", 100, 1000)
request("request-16k-fixed", "requests of 16 KiB", 16384, 1000)

return list
