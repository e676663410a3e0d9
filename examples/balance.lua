-- Three servers and a spare one. The second takes twice as many connections as the others, none more than a thousand.
-- Every two seconds one of the workers asks each of them whether it answers (redis does); one that has not, three
-- times, gets no more connections, and those that it has are closed, so that clients connect again – to another one.

local moongate = require "moongate"

moongate.listen {
  name = "redis",
  address = os.getenv("LISTEN") or "127.0.0.1:6380",
  idle_timeout = false,
  backend = moongate.backend {
    name = "redis",
    address = {
      os.getenv("FIRST") or "10.0.0.1:6379",
      { address = os.getenv("SECOND") or "10.0.0.2:6379", weight = 2 },
      os.getenv("THIRD") or "10.0.0.3:6379",
      { address = os.getenv("SPARE") or "10.0.0.9:6379", backup = true },
    },
    balance = "least_connections",
    max_connections = 1000,
    connect_timeout = 1,
    health = {
      interval = tonumber(os.getenv("INTERVAL") or 2),
      timeout = 1,
      fall = 3,
      rise = 2,
      send = "PING\r\n",
      expect = "+PONG",
    },
    on_down = "close",
  },
}
