-- Plain TCP to two servers. Of two servers drawn at random the one with fewer connections gets the next; one
-- that cannot be reached is passed over.

local moongate = require "moongate"

moongate.listen {
  name = "redis",
  address = os.getenv("LISTEN") or "127.0.0.1:6380",
  idle_timeout = false,
  backend = moongate.backend {
    address = { "127.0.0.1:6379", "127.0.0.1:6381" },
    balance = "random_two",
    connect_timeout = 0.5,
  },
}
