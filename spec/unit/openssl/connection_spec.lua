--- The two ends of a handshake in memory: data both ways, the end, keying material, and what they outlive.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local raises = fix.raises

for _, version in ipairs { "TLS1_2", "TLS1_3" } do
    describe("the ends of a handshake on " .. version, function()
        local hs
        before_each(function() hs = fix.handshake(fix.server(), fix.client(fix.only(version))) end)

        it("exchange data both ways", function()
            assert.equal("ping", (hs.client:write("ping") and hs.server:read()))
            assert.equal("pong", (hs.server:write("pong") and hs.client:read()))
        end)

        it("say when nothing has come", function()
            assert.same({ nil, "wait" }, { hs.server:read() })
        end)

        it("read what several writes gave, or as much as is asked for", function()
            hs.client:write("one"):write(""):write("two")
            assert.equal("onet", hs.server:read(4))
            assert.equal("wo", hs.server:read())
        end)

        it("carry more than their buffers hold", function()
            local data = ("0123456789"):rep(100000)
            hs.server:write(data)
            assert.equal(data, hs.client:read())
        end)

        it("carry every byte", function()
            local data = {}
            for byte = 0, 255 do data[#data + 1] = string.char(byte) end
            hs.client:write(table.concat(data))
            assert.equal(table.concat(data), hs.server:read())
        end)

        it("close one direction at a time", function()
            hs.client:write("last"):close()
            hs.client:close()
            assert.equal("last", hs.server:read())
            assert.same({ nil, "closed" }, { hs.server:read() })
            hs.server:write("answer")
            assert.equal("answer", hs.client:read())
            raises("SSLError", "Connection:write: this end is closed", hs.client.write, hs.client, "x")
        end)

        it("export the same keying material", function()
            local mine, theirs = hs.client, hs.server
            assert.equal(32, #mine:export_keying_material("label", 32))
            assert.equal(mine:export_keying_material("label", 32), theirs:export_keying_material("label", 32))
            assert.equal(mine:export_keying_material("label", 32, "c"), theirs:export_keying_material("label", 32, "c"))
            assert.not_equal(mine:export_keying_material("label", 32), mine:export_keying_material("other", 32))
            -- an empty context is none in TLS 1.3, but not in TLS 1.2
            assert.equal(version == "TLS1_3",
                mine:export_keying_material("label", 32) == mine:export_keying_material("label", 32, ""))
        end)

        it("live without the handshake's table", function()
            local server, client = hs.server, hs.client
            hs = nil
            collectgarbage()
            collectgarbage()
            client:write("still there")
            client = nil
            collectgarbage()
            assert.equal("still there", server:read())
            assert.is_true(client == nil)
        end)

        it("check their arguments", function()
            raises("ArgumentError", "expected a positive number", hs.client.read, hs.client, 0)
            raises("TypeError", "Connection:write: argument 1: expected a string, got nil", hs.client.write,
                hs.client, nil)
            raises("TypeError", "expected Connection before the colon", hs.client.read, {})
            raises("ArgumentError", "length: expected 1 to 4096", hs.client.export_keying_material, hs.client, "l", 0)
            raises("ArgumentError", "length: expected 1 to 4096", hs.client.export_keying_material, hs.client, "l",
                4097)
            raises("NoMethodError", "Connection.ssl_verison: no such field (did you mean ssl_version?)",
                function() return hs.client.ssl_verison end)
            raises("NoMethodError", "Connection.cipher: is read-only", fix.assign, hs.client, "cipher", 1)
        end)
    end)
end

describe("the ends of a failed handshake", function()
    it("raise the handshake's error", function()
        local hs = fix.handshake(fix.server(), fix.client(fix.only("TLS1_2", { cert_store = fix.X509.Store.new() })))
        raises("SSLError", "Connection:read: certificate verify failed", hs.client.read, hs.client)
        raises("SSLError", "Connection:write: ", hs.server.write, hs.server, "x")
        raises("SSLError", "the handshake is not done", hs.server.export_keying_material, hs.server, "l", 8)
        hs.client:close()
        hs.server:close()
    end)

    it("have readers that are safe", function()
        local hs = fix.handshake(fix.server { min_version = "TLS1_3" }, fix.client(fix.only "TLS1_2"))
        assert.equal("protocol_version", hs.alert)
        for _, side in ipairs { hs.server, hs.client } do
            assert.is_nil(side.group) -- trap 1: a segfault in Ruby
            assert.is_nil(side.cipher)
            assert.is_nil(side.peer_cert)
            assert.is_nil(side.tmp_key)
            assert.equal(0, side.verify_result)
        end
    end)
end)
