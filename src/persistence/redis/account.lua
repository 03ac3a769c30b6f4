-- Keeps the sums over all users, which lie in another slot than the users themselves: what each
-- user has now replaces what that user had, so that nothing adds up wrongly over time.
--
-- KEYS: oldest (who kept a message longest), sizes, totals. ARGV: for each user the name's code,
-- messages, bytes, when the oldest was kept. Returns messages and bytes of all users.
local oldest, sizes, totals = KEYS[1], KEYS[2], KEYS[3]

for at = 1, #ARGV, 4 do
  local user = ARGV[at]
  local messages, bytes = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local before = redis.call('HGET', sizes, user) or '0:0'
  local old_messages, old_bytes = string.match(before, '^(%d+):(%d+)$')
  if messages == 0 then
    redis.call('HDEL', sizes, user)
    redis.call('ZREM', oldest, user)
  else
    redis.call('HSET', sizes, user, string.format('%.0f:%.0f', messages, bytes))
    redis.call('ZADD', oldest, ARGV[at + 3], user)
  end
  redis.call('HINCRBY', totals, 'messages', string.format('%.0f', messages - old_messages))
  redis.call('HINCRBY', totals, 'bytes', string.format('%.0f', bytes - old_bytes))
end
return {
  tonumber(redis.call('HGET', totals, 'messages') or '0'),
  tonumber(redis.call('HGET', totals, 'bytes') or '0'),
}
