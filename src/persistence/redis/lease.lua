-- Renews a node's lease, or gives it one under a new incarnation: a number above all given before,
-- also after the keys were lost, since it begins with Redis' clock in microseconds.
--
-- KEYS: leases, counter. ARGV: incarnation ('' for a new one), the one to give up ('' for none),
-- lease in milliseconds. Returns own incarnation, the newest given, then all that are alive.
local leases, counter = KEYS[1], KEYS[2]
local incarnation, given_up, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])

local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local millis = math.floor(micros / 1000)

redis.call('ZREMRANGEBYSCORE', leases, '-inf', string.format('(%.0f', millis))
if given_up ~= '' then
  redis.call('ZREM', leases, given_up)
end
if incarnation == '' or not redis.call('ZSCORE', leases, incarnation) then
  local last = tonumber(redis.call('GET', counter) or '0')
  incarnation = string.format('%.0f', math.max(micros, last + 1))
  redis.call('SET', counter, incarnation)
end
redis.call('ZADD', leases, string.format('%.0f', millis + lease), incarnation)

local answer = redis.call('ZRANGE', leases, 0, -1)
table.insert(answer, 1, redis.call('GET', counter) or incarnation)
table.insert(answer, 1, incarnation)
return answer
