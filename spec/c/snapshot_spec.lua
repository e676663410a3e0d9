-- The sealed file: what is written is read again, and nothing that was not written is believed.

local build = os.getenv("MOONGATE_BUILD") or "build"
package.cpath = build .. "/spec/?.so;" .. package.cpath
local snapshot = require("mgtest").snapshot
local process = require "process"

local KIND_SCRIPT, KIND_FILE, KIND_LISTING = 1, 4, 5
local HEADER = 24

local function descriptors()
    return #process.list("/proc/self/fd")
end

local records = {
    { KIND_SCRIPT, "/etc/moongate.lua", "return 1" },
    { KIND_FILE, "/etc/key.pem", "D" .. ("secret\0"):rep(1000) },
    { KIND_FILE, "/etc/missing", "E2" },
    { KIND_FILE, "", "" },
    { KIND_LISTING, "/etc", "a\0b\0" },
}

local function written()
    local fd = assert(snapshot.write(records))
    local text = snapshot.bytes(fd)
    snapshot.close(fd)
    return text
end

-- Reads these bytes as a file that is not sealed.
local function read(text)
    local fd = snapshot.file(text)
    local list, err = snapshot.read(fd, false)
    snapshot.close(fd)
    return list, err
end

describe("a snapshot", function()
    it("gives back every record, in order and by key", function()
        local fd = assert(snapshot.write(records))
        local list = assert(snapshot.read(fd, true))
        snapshot.close(fd)
        for _, record in ipairs(list) do
            assert.is_true(record.found)
            record.found = nil
        end
        assert.same(records, list)
    end)

    it("finds the first of two with the same key", function()
        local fd = assert(snapshot.write { { KIND_FILE, "a", "1" }, { KIND_FILE, "a", "2" } })
        local list = assert(snapshot.read(fd, true))
        snapshot.close(fd)
        assert.same({ true, false }, { list[1].found, list[2].found })
    end)

    it("holds many", function()
        local many = {}
        for i = 1, 5000 do many[i] = { KIND_FILE, "/certs/" .. i, ("x"):rep(i % 50) } end
        local fd = assert(snapshot.write(many))
        local list = assert(snapshot.read(fd, true))
        snapshot.close(fd)
        assert.equal(5000, #list)
        for i, record in ipairs(list) do
            assert.is_true(record.found)
            assert.equal(many[i][2], record[2])
        end
    end)

    it("may be empty", function()
        local fd = assert(snapshot.write {})
        assert.same({}, snapshot.read(fd, true))
        snapshot.close(fd)
    end)

    it("cannot be changed by anybody", function()
        local fd = assert(snapshot.write(records))
        assert.is_false(snapshot.change(fd))
        snapshot.close(fd)
    end)

    it("is refused unsealed where seals are required, and read where they are not", function()
        local fd = snapshot.file(written())
        local list, err = snapshot.read(fd, true)
        assert.is_nil(list)
        assert.matches("not sealed", err)
        assert.equal(#records, #snapshot.read(fd, false))
        snapshot.close(fd)
    end)

    it("is refused when it is cut anywhere", function()
        local text = written()
        local function refused(len)
            local list, err = read(text:sub(1, len))
            assert.is_nil(list)
            assert.matches("snapshot: ", err, 1, true)
        end
        for len = 0, #text - 1, 7 do
            refused(len)
        end
        refused(#text - 1)
    end)

    it("is refused when bytes follow", function()
        assert.is_nil(read(written() .. "12345678"))
    end)

    it("survives any byte being another", function()
        local text = written()
        for at = 1, HEADER + 200 do
            for _, byte in ipairs { 0, 1, 0x7f, 0x80, 0xff } do
                read(text:sub(1, at - 1) .. string.char(byte) .. text:sub(at + 1))
            end
        end
    end)

    for name, record in pairs {
        ["a key longer than the file"] = string.pack("<I4I4I8", KIND_FILE, 0xffffffff, 0),
        ["a value longer than the file"] = string.pack("<I4I4I8", KIND_FILE, 0, 1 << 62),
        ["a value whose length overflows"] = string.pack("<I4I4I8", KIND_FILE, 8, -1),
        ["lengths that only fit without their padding"] = string.pack("<I4I4I8", KIND_FILE, 0, 3) .. "abc",
    } do
        it("is refused with " .. name, function()
            local text = "MGSNAP01" .. string.pack("<I8I8", HEADER + #record, 1) .. record
            assert.is_nil(read(text))
        end)
    end

    it("is refused when it counts more records than can be there", function()
        assert.is_nil(read("MGSNAP01" .. string.pack("<I8I8", HEADER, 1 << 60)))
    end)

    it("is refused when it is no file", function()
        local err = select(2, snapshot.read(0, false))
        assert.is_string(err)
    end)

    it("reports every failed allocation and keeps nothing", function()
        local before = descriptors()
        for n = 1, 12 do
            local fd, err = snapshot.write(records, n)
            if fd then
                snapshot.close(fd)
            else
                assert.matches("out of memory", err)
            end
        end
        local fd = assert(snapshot.write(records))
        for n = 1, 3 do
            local list, err = snapshot.read(fd, true, n)
            assert.is_nil(list)
            assert.matches("out of memory", err)
        end
        snapshot.close(fd)
        assert.equal(before, descriptors())
    end)
end)

describe("an identity", function()
    it("changes with the content, and with the file", function()
        local path = os.tmpname()
        local function write(text)
            local file = assert(io.open(path, "w"))
            file:write(text)
            file:close()
        end
        write("one")
        local one = snapshot.identity(path)
        assert.equal(one, snapshot.identity(path))
        write("three")
        assert.not_equal(one, snapshot.identity(path))
        os.remove(path)
        assert.equal("missing", snapshot.identity(path))
    end)
end)
