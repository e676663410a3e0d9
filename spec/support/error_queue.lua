--- busted loads this before every spec file (see .busted): whatever a spec does, it leaves OpenSSL's error queue empty.

require "busted".after_each(function()
    local openssl = package.loaded["moongate.openssl"]
    if openssl then
        require "luassert".same({}, openssl.errors())
    end
end)
