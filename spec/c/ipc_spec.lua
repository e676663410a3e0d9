-- The channel between processes: messages of any length arrive whole, and nonsense ends the channel.

local build = os.getenv("MOONGATE_BUILD") or "build"
package.cpath = build .. "/spec/?.so;" .. package.cpath
local ipc = require("mgtest").ipc
local process = require "process"

local MAGIC = 0x4d474950
local DONE = 1000 -- ms: longer than anything here takes

local function descriptors()
    return #process.list("/proc/self/fd")
end

-- A packet with these header fields.
local function packet(fields, payload)
    payload = payload or ""
    return string.pack("=I4I4I8I4I4", fields.magic or MAGIC, fields.type or 1, fields.number or 0,
        fields.total or #payload, fields.offset or 0) .. payload
end

local before

-- The first loop of a process opens descriptors that stay.
setup(function()
    local a, b = ipc.pair()
    ipc.open(a):close()
    ipc.close(b)
end)
before_each(function() before = descriptors() end)
after_each(function()
    collectgarbage()
    assert.equal(before, descriptors())
end)

describe("a blocking message", function()
    for _, len in ipairs { 0, 1, 60 * 1024 - 1, 60 * 1024, 60 * 1024 + 1 } do
        it(("of %d bytes arrives whole"):format(len), function()
            local a, b = ipc.pair()
            local payload = ("0123456789abcdef"):rep(len // 16 + 1):sub(1, len)
            assert.is_true(ipc.send(a, 7, 1 << 40, payload))
            local msg = ipc.receive(b, DONE)
            assert.equal(7, msg.type)
            assert.equal(1 << 40, msg.number)
            assert.is_true(payload == msg.data)
            ipc.close(a)
            assert.is_false(ipc.receive(b, DONE))
            ipc.close(b)
        end)
    end

    it("carries descriptors", function()
        local a, b = ipc.pair()
        local c, d = ipc.pair()
        assert.is_true(ipc.send(a, 1, 0, "take it", { c, c, c }))
        local msg = ipc.receive(b, DONE)
        assert.equal(3, #msg.fds)
        assert.is_true(ipc.send(msg.fds[2], 9, 0, "through it"))
        assert.equal("through it", ipc.receive(d, DONE).data)
        for _, fd in ipairs { a, b, c, d, msg.fds[1], msg.fds[2], msg.fds[3] } do ipc.close(fd) end
    end)

    it("is refused when it is too long, or carries too much", function()
        local a, b = ipc.pair()
        assert.is_nil(ipc.send(a, 1, 0, ("x"):rep(ipc.MAX + 1)))
        assert.is_nil(ipc.send(a, 1, 0, "", { a, a, a, a, a, a, a, a, a }))
        ipc.close(a)
        ipc.close(b)
    end)

    it("that does not come ends the wait", function()
        local a, b = ipc.pair()
        local msg, err = ipc.receive(b, 20)
        assert.is_nil(msg)
        assert.matches("no answer within 20 ms", err)
        ipc.close(a)
        ipc.close(b)
    end)

    it("that ends in the middle is an error", function()
        local a, b = ipc.pair()
        ipc.raw(a, packet({ total = 100 }, "half"))
        ipc.close(a)
        local msg, err = ipc.receive(b, DONE)
        assert.is_nil(msg)
        assert.matches("ended within a message", err)
        ipc.close(b)
    end)
end)

-- What must end a channel, as packets.
local malformed = {
    ["nothing but a byte"] = { "x" },
    ["half a header"] = { packet({}):sub(1, 12) },
    ["another magic"] = { packet({ magic = 1 }) },
    ["more than may be"] = { packet({ total = ipc.MAX + 1 }, "x") },
    ["a huge length"] = { packet({ total = 0xffffffff }, "x") },
    ["more than it says"] = { packet({ total = 3 }, "four") },
    ["an empty part"] = { packet({ total = 3 }) },
    ["an offset at the start"] = { packet({ total = 10, offset = 5 }, "01234") },
    ["a gap"] = { packet({ total = 10 }, "01234"), packet({ total = 10, offset = 6 }, "6789") },
    ["an overlap"] = { packet({ total = 10 }, "01234"), packet({ total = 10, offset = 4 }, "456789") },
    ["another total"] = { packet({ total = 10 }, "01234"), packet({ total = 11, offset = 5 }, "56789") },
    ["another type"] = { packet({ total = 10 }, "01234"), packet({ total = 10, type = 2, offset = 5 }, "56789") },
    ["another number"] = { packet({ total = 10 }, "01234"), packet({ total = 10, number = 2, offset = 5 }, "5") },
    ["a packet that is too big"] = { packet({ total = 70000 }, ("x"):rep(70000)) },
}

describe("a malformed packet", function()
    for name, packets in pairs(malformed) do
        it(("with %s is an error to a blocking reader"):format(name), function()
            local a, b = ipc.pair()
            for _, bytes in ipairs(packets) do assert.is_true(ipc.raw(a, bytes)) end
            local msg, err = ipc.receive(b, DONE)
            assert.is_nil(msg)
            assert.matches("control channel: ", err, 1, true)
            ipc.close(a)
            ipc.close(b)
        end)

        it(("with %s ends a channel, once"):format(name), function()
            local a, b = ipc.pair()
            local channel = ipc.open(b)
            for _, bytes in ipairs(packets) do assert.is_true(ipc.raw(a, bytes)) end
            ipc.raw(a, packet({}, "after"))
            local messages, lost = channel:turn()
            assert.same({}, messages)
            assert.is_string(lost)
            assert.same({}, (channel:turn()))
            assert.is_true(channel:close())
            ipc.close(a)
        end)
    end

    it("with too many descriptors keeps none of them", function()
        local a, b = ipc.pair()
        local channel = ipc.open(b)
        ipc.raw(a, packet({}, "x"), { a, a, a, a, a, a, a, a, a, a, a, a })
        local messages, lost = channel:turn()
        assert.same({}, messages)
        assert.equal("descriptors were lost", lost)
        assert.is_true(channel:close())
        ipc.close(a)
    end)

    it("with descriptors in the middle keeps none of them", function()
        local a, b = ipc.pair()
        local channel = ipc.open(b)
        ipc.raw(a, packet({ total = 10 }, "01234"), { a })
        ipc.raw(a, packet({ total = 10, offset = 5 }, "56789"), { a })
        local _, lost = channel:turn()
        assert.equal("descriptors in the middle of a message", lost)
        assert.is_true(channel:close())
        ipc.close(a)
    end)
end)

describe("a channel", function()
    it("delivers in order, whatever the sizes", function()
        local a, b = ipc.pair()
        local sender, receiver = ipc.open(a), ipc.open(b)
        local sizes = { 0, 200000, 5, 61440, 1, 3000000, 0 }
        for i, size in ipairs(sizes) do
            assert.is_true(sender:send(i, i, string.char(64 + i):rep(size)))
        end
        local got = {}
        for _ = 1, 2000 do
            sender:turn()
            for _, msg in ipairs((receiver:turn())) do got[#got + 1] = msg end
            if #got == #sizes then break end
        end
        for i, size in ipairs(sizes) do
            assert.equal(i, got[i].type)
            assert.is_true(string.char(64 + i):rep(size) == got[i].data)
        end
        assert.is_true(sender:close())
        assert.is_true(receiver:close())
    end)

    it("keeps descriptors for what waits, though their owner has closed them", function()
        local a, b = ipc.pair()
        local sender, receiver = ipc.open(a), ipc.open(b)
        while not sender:waiting() do sender:send(1, 0, ("x"):rep(60000)) end
        local c, d = ipc.pair()
        assert.is_true(sender:send(2, 0, "the last", { c }))
        ipc.close(c)
        local last
        for _ = 1, 2000 do
            sender:turn()
            for _, msg in ipairs((receiver:turn())) do last = msg end
            if last and last.type == 2 then break end
        end
        assert.equal("the last", last.data)
        assert.is_true(ipc.send(last.fds[1], 1, 0, "alive"))
        assert.equal("alive", ipc.receive(d, DONE).data)
        ipc.close(d)
        ipc.close(last.fds[1])
        assert.is_true(sender:close())
        assert.is_true(receiver:close())
    end)

    it("closed with a full queue leaves nothing behind", function()
        local a, b = ipc.pair()
        local sender = ipc.open(a)
        while not sender:waiting() do sender:send(1, 0, ("x"):rep(60000)) end
        sender:send(2, 0, "never", { a, b })
        assert.is_true(sender:close())
        ipc.close(b)
    end)

    it("may be closed by the message it delivers", function()
        local a, b = ipc.pair()
        local receiver = ipc.open(b, true)
        ipc.send(a, 1, 0, "first")
        ipc.send(a, 2, 0, "second")
        local messages, lost = receiver:turn()
        assert.equal(1, #messages)
        assert.is_nil(lost)
        assert.is_true(receiver:close())
        ipc.close(a)
    end)

    it("delivers what was sent before the other end went", function()
        local a, b = ipc.pair()
        local receiver = ipc.open(b)
        ipc.send(b, 1, 0, "nobody reads this")
        ipc.send(a, 1, 0, "last words")
        ipc.close(a)
        local messages, lost = receiver:turn()
        assert.equal("last words", messages[1].data)
        assert.equal("the other end is gone", lost)
        assert.is_false(receiver:send(1, 0, "too late"))
        assert.is_true(receiver:close())
    end)

    it("is lost at both ends with a message that cannot be stored, of which no part is sent", function()
        for n = 1, 3 do
            local a, b = ipc.pair()
            local sender, receiver = ipc.open(a), ipc.open(b)
            assert.is_true(sender:send(1, 0, "before"))
            assert.is_false(sender:send(2, 0, ("x"):rep(150000), {}, n))
            local messages, lost = receiver:turn()
            assert.same({ 1, "before" }, { messages[1].type, messages[1].data })
            assert.is_nil(messages[2])
            assert.equal("the other end is gone", lost)
            assert.equal("the other end is gone", select(2, sender:turn()))
            assert.is_true(sender:close())
            assert.is_true(receiver:close())
        end
    end)

    it("is lost at both ends with a descriptor that cannot be passed", function()
        local a, b = ipc.pair()
        local sender, receiver = ipc.open(a), ipc.open(b)
        assert.is_false(sender:send(1, 0, "with a closed one", { 9999 }))
        assert.equal("the other end is gone", select(2, receiver:turn()))
        assert.equal("the other end is gone", select(2, sender:turn()))
        assert.is_true(sender:close())
        assert.is_true(receiver:close())
    end)

    it("outlives a message that is too long", function()
        local a, b = ipc.pair()
        local sender, receiver = ipc.open(a), ipc.open(b)
        assert.is_false(sender:send(1, 0, ("x"):rep(ipc.MAX + 1)))
        assert.is_true(sender:send(2, 0, "short"))
        assert.equal("short", receiver:turn()[1].data)
        assert.is_true(sender:close())
        assert.is_true(receiver:close())
    end)
end)

describe("a field", function()
    it("is the whole line behind its key", function()
        local text = "index=3\nuser=\nlog_level=info\nlog=stderr\nlast=x=y"
        assert.equal("3", ipc.field(text, "index"))
        assert.equal("", ipc.field(text, "user"))
        assert.equal("stderr", ipc.field(text, "log"))
        assert.equal("x=y", ipc.field(text, "last"))
        assert.is_nil(ipc.field(text, "level"))
        assert.is_nil(ipc.field("", "x"))
        assert.is_nil(ipc.field(text, "log_level", 4))
    end)
end)
