-- A session is resumed under the policy, at the listener and with the name that it was made for, and not
-- longer than the client's certificate is valid.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

-- What makes another policy of `ctx`.
local CHANGES = {
    ["one cipher less"] = 'ctx.ciphers = "ECDHE+AESGCM:!AES128"',
    ["one suite less"] = 'ctx.ciphersuites = "TLS_AES_256_GCM_SHA384"',
    ["other groups"] = 'ctx.groups = "X25519"',
    ["other options"] = "ctx.options = ctx.options | openssl.SSL.OP_CIPHER_SERVER_PREFERENCE",
    ["another version"] = "ctx.min_version = openssl.SSL.TLS1_2_VERSION ctx.max_version = openssl.SSL.TLS1_3_VERSION",
    ["client certificates"] = 'ctx.verify_mode = openssl.SSL.VERIFY_PEER ctx.ca_file = "$ca_crt"',
}

local MADE = [[
do
    local ctx = server()
    %s
    moongate.listen { name = %q, address = "127.0.0.1:%d", tls = ctx, backend = moongate.reply "bye\n" }
end
]]

local AUTHORITY = [[
[ca]
default_ca = it
[it]
database = $dir/short.index
serial = $dir/short.serial
new_certs_dir = $dir
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
]]

-- Certificate and key for a client, and when it ends: in so many seconds.
local function short_lived(seconds)
    local crt, key, csr = bench.path "short.crt", bench.path "short.key", bench.path "short.csr"
    local ending = os.time() + seconds
    bench.write("short.index", "")
    bench.write("short.serial", "10\n")
    bench.must { "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=short-lived", "-keyout", key, "-out", csr }
    bench.must { "openssl", "ca", "-batch", "-notext", "-in", csr, "-out", crt, "-cert", certs.ca.crt,
        "-keyfile", certs.ca.key, "-config", bench.write("short.cnf", bench.fill(AUTHORITY, { dir = bench.dir })),
        "-startdate", "20200101000000Z", "-enddate", os.date("!%Y%m%d%H%M%SZ", ending) }
    return crt, key, ending
end

describe("resumption", function()
    local web
    local ports = {}

    setup(function()
        local parts = { 'local shared = server()' }
        for _, name in ipairs { "base", "twin" } do
            ports[name] = bench.port()
            parts[#parts + 1] = ('moongate.listen { name = %q, address = "127.0.0.1:%d", tls = shared, ' ..
                'backend = moongate.reply "bye\\n" }'):format(name, ports[name])
        end
        ports.clients = bench.port()
        parts[#parts + 1] = MADE:format(CHANGES["client certificates"], "clients", ports.clients)
        ports.stateful = bench.port()
        parts[#parts + 1] = MADE:format(CHANGES["client certificates"] ..
            " ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET", "stateful", ports.stateful)
        web = proxy.start { workers = 1, script = table.concat(parts, "\n") }
    end)
    teardown(proxy.cleanup)

    -- Whether the connection resumed a session.
    local function connect(listener, ...)
        local seen = #web:records()
        bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports[listener], "-CAfile", certs.ca.crt,
            "-ign_eof", input = "hello\n", ... }
        return web:record(seen + 1).resumed == "yes"
    end

    -- Whether a session made at the first listener is resumed at the second.
    local function resumed(version, first, second, first_name, second_name)
        local session = bench.path("session.pem")
        os.remove(session)
        connect(first, version, "-servername", first_name or "localhost", "-sess_out", session)
        return connect(second, version, "-servername", second_name or first_name or "localhost", "-sess_in", session)
    end

    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        it("works where everything is the same " .. version, function()
            assert.is_true(resumed(version, "base", "base"))
            assert.is_true(resumed(version, "base", "base", "localhost", "LOCALHOST"))
        end)

        it("stays with its listener, even if another has the same context " .. version, function()
            assert.is_false(resumed(version, "base", "twin"))
            assert.is_false(resumed(version, "twin", "base"))
        end)

        it("stays with its name " .. version, function()
            assert.is_false(resumed(version, "base", "base", "localhost", "other.example"))
            assert.is_false(resumed(version, "base", "base", "other.example", "localhost"))
        end)

        it("ends with the client's certificate " .. version, function()
            local crt, key, ending = short_lived(bench.slow and 12 or 4)
            local session = bench.path("short.pem")
            os.remove(session)
            local kept = bench.path("kept.pem")
            os.remove(kept)
            connect("clients", version, "-cert", crt, "-key", key, "-sess_out", session)
            connect("stateful", version, "-cert", crt, "-key", key, "-sess_out", kept)
            assert.is_true(connect("clients", version, "-cert", crt, "-key", key, "-sess_in", session))
            assert.is_true(connect("stateful", version, "-cert", crt, "-key", key, "-sess_in", kept))
            bench.wait("the certificate's end", function() return os.time() > ending end)
            assert.is_false(connect("clients", version, "-sess_in", session))
            assert.is_false(connect("stateful", version, "-sess_in", kept))
        end)
    end

    -- The name of the listener alone would do; so the policies change under one name, by a reload.
    it("does not outlast a change of the policy", function()
        local port = bench.port()
        ports.changing = port
        local function script(change)
            return MADE:format(change, "changing", port)
        end
        local changing = proxy.start { workers = 1, script = script "" }
        local function at_changing(...)
            local seen = #changing:records()
            bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-ign_eof", "-tls1_2",
                "-servername", "localhost", input = "hello\n", ... }
            return changing:record(seen + 1).resumed == "yes"
        end
        local session = bench.path("changing.pem")
        at_changing("-sess_out", session)
        changing:reload(script "-- only a comment")
        assert.is_true(at_changing("-sess_in", session))
        for name, change in pairs(CHANGES) do
            changing:reload(script(change))
            assert.is_false(at_changing("-sess_in", session), name)
        end
        changing:reload(script "")
        assert.is_true(at_changing("-sess_in", session))
        changing:stop()
    end)
end)
