-- PROXY headers of version 2 for specs, made and taken apart independently of moongate's own.

local pp2 = { SIGNATURE = "\r\n\r\n\0\r\nQUIT\n" }

function pp2.tlv(type, value)
    return string.char(type) .. string.pack(">s2", value)
end

-- header(command, family, rest): 0x20 LOCAL, 0x21 PROXY; 0x11 TCP over IPv4.
function pp2.header(command, family, rest)
    return pp2.SIGNATURE .. string.char(command, family) .. string.pack(">s2", rest or "")
end

local function address(text)
    local a, b, c, d = text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
    return string.char(a, b, c, d)
end

-- tcp4("192.0.2.1", 1000, "192.0.2.2", 443, tlvs)
function pp2.tcp4(source, source_port, destination, destination_port, tlvs)
    return pp2.header(0x21, 0x11, address(source) .. address(destination)
        .. string.pack(">I2I2", source_port, destination_port) .. (tlvs or ""))
end

-- Type → value, and the types in their order.
function pp2.tlvs(bytes)
    local values, order, at = {}, {}, 1
    while at <= #bytes do
        local type, value
        type, value, at = string.unpack(">Bs2", bytes, at)
        values[type] = value
        order[#order + 1] = type
    end
    return values, order
end

-- Bit by bit, as RFC 4960 has it.
function pp2.crc32c(data)
    local crc = 0xffffffff
    for i = 1, #data do
        crc = crc ~ data:byte(i)
        for _ = 1, 8 do
            crc = crc & 1 == 1 and crc >> 1 ~ 0x82f63b78 or crc >> 1
        end
    end
    return crc ~ 0xffffffff
end

local BLOCK = { [0] = 0, 12, 36, 216 }

-- Reads a header from a connection: { command =, family =, source =, destination = (bytes), source_port =,
-- destination_port =, tlvs =, order =, crc_ok =, ssl = { client =, verify =, tlvs = } }.
function pp2.receive(connection)
    local fixed = assert(connection:receive(16))
    assert(fixed:sub(1, 12) == pp2.SIGNATURE, "no header of version 2")
    local command, family, len = string.unpack(">BBI2", fixed, 13)
    local rest = len > 0 and assert(connection:receive(len)) or ""
    local block = BLOCK[family >> 4]
    local header = { command = command, family = family, bytes = fixed .. rest }
    if family >> 4 == 1 or family >> 4 == 2 then
        local size = family >> 4 == 1 and 4 or 16
        header.source, header.destination = rest:sub(1, size), rest:sub(size + 1, 2 * size)
        header.source_port, header.destination_port = string.unpack(">I2I2", rest, 2 * size + 1)
        if size == 4 then
            header.source = table.concat({ header.source:byte(1, 4) }, ".")
            header.destination = table.concat({ header.destination:byte(1, 4) }, ".")
        end
    elseif family >> 4 == 3 then
        header.source, header.destination = rest:sub(1, 108), rest:sub(109, 216)
    end
    header.tlvs, header.order = pp2.tlvs(rest:sub(block + 1))
    if header.tlvs[3] then
        local at = 16 + block
        for _, type in ipairs(header.order) do
            if type == 3 then
                break
            end
            at = at + 3 + #header.tlvs[type]
        end
        local zeroed = header.bytes:sub(1, at + 3) .. "\0\0\0\0" .. header.bytes:sub(at + 8)
        header.crc_ok = string.unpack(">I4", header.tlvs[3]) == pp2.crc32c(zeroed)
    end
    if header.tlvs[0x20] then
        local client, verify = string.unpack(">BI4", header.tlvs[0x20])
        header.ssl = { client = client, verify = verify, tlvs = pp2.tlvs(header.tlvs[0x20]:sub(6)) }
    end
    return header
end

return pp2
