-- One operation on the unread messages of one user. All keys are in the user's slot.
--
-- It runs as a whole or, where its first write is refused (OOM, READONLY, MISCONF), not at all:
-- nothing here fails after a write.
local meta, order, by_target, age, info, data, x_ids, gone, drops, here = unpack(KEYS)
local op = ARGV[1]
-- Milliseconds of the relay's clock; what was kept before `horizon` is past its age.
local now, horizon = tonumber(ARGV[2]), tonumber(ARGV[3])

local X_ID_MS = 3600000
local DROPPED_RUNS, DROPPED_MERGE = 10000, 5000
local SWEPT_AT_ONCE = 1000

-- Members of `by_target` and `here` begin with their target. The length keeps one target from
-- being the beginning of another; ':' and what follows it sort below ';'.
local function prefix(target)
  return string.format('%d:', #target) .. target .. ':'
end

local function padded(id)
  return string.format('%016.0f', id)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Ids past their age that no sweep has removed yet: normally none.
local aged_ids = redis.call('ZRANGEBYSCORE', age, '-inf', '(' .. text(horizon))
local aged, aged_count = {}, #aged_ids
for _, id in ipairs(aged_ids) do
  aged[tonumber(id)] = true
end

local function unread()
  return redis.call('ZCARD', order) - aged_count
end

local function about(id)
  local packed = redis.call('HGET', info, text(id))
  return packed and cmsgpack.unpack(packed)
end

-- What the caller accounts for over all users: messages, bytes, when the oldest was kept.
local function totals()
  local oldest = redis.call('ZRANGE', age, 0, 0, 'WITHSCORES')
  local bytes = tonumber(redis.call('HGET', meta, 'bytes') or '0')
  return redis.call('ZCARD', order), bytes, tonumber(oldest[2] or '0')
end

local function run_of(member)
  local first, last, kind, rest = string.match(member, '^(%d+):(%d+):([=*])(.*)$')
  return tonumber(first), tonumber(last), kind == '*', rest
end

local function add_run(first, last, kind, rest)
  redis.call('ZADD', drops, text(last), text(first) .. ':' .. text(last) .. ':' .. kind .. rest)
end

local function merge_runs()
  if redis.call('ZCARD', drops) <= DROPPED_RUNS then
    return
  end
  local lowest, highest, number = nil, 0, 0
  for _, member in ipairs(redis.call('ZRANGE', drops, 0, DROPPED_MERGE - 1)) do
    local first, last, merged, rest = run_of(member)
    lowest = math.min(lowest or first, first)
    highest = math.max(highest, last)
    number = number + (merged and tonumber(rest) or last - first + 1)
  end
  redis.call('ZREMRANGEBYRANK', drops, 0, DROPPED_MERGE - 1)
  add_run(lowest, highest, '*', text(number))
end

local function remember_dropped(id, target)
  local before = text(id - 1)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', drops, before, before)) do
    local first, _, merged, rest = run_of(member)
    if not merged and rest == target then
      redis.call('ZREM', drops, member)
      add_run(first, id, '=', target)
      return
    end
  end
  add_run(id, id, '=', target)
  merge_runs()
end

-- Returns the bytes that are free now.
local function remove(id, dropped)
  local target, size, x_id = unpack(about(id))
  local field = text(id)
  redis.call('HDEL', info, field)
  redis.call('HDEL', data, field)
  redis.call('ZREM', order, field)
  redis.call('ZREM', age, field)
  redis.call('ZREM', by_target, prefix(target) .. padded(id))
  redis.call('HINCRBY', meta, 'bytes', text(0 - size))
  if x_id ~= '' then
    redis.call('HDEL', x_ids, x_id)
    redis.call('ZREMRANGEBYSCORE', gone, '-inf', '(' .. text(now - X_ID_MS))
    redis.call('ZADD', gone, text(now), x_id)
    redis.call('PEXPIRE', gone, X_ID_MS)
  end
  if dropped then
    remember_dropped(id, target)
  end
  return size
end

-- Where the user's sessions hear of what is unread.
local NOTICES = 'queue/unread'

-- The nodes where somebody is present for the target. An entry of a node that is neither alive nor
-- younger than the caller's list of the living is a dead node's, and goes.
local function nodes_at(target)
  local newest, alive = tonumber(ARGV[4]), {}
  for incarnation in string.gmatch(ARGV[5], '%d+') do
    alive[incarnation] = true
  end
  local start = prefix(target)
  local nodes = {}
  local members =
    redis.call('ZRANGEBYLEX', here, '[' .. start, '(' .. string.sub(start, 1, -2) .. ';')
  for _, member in ipairs(members) do
    local incarnation, node = string.match(string.sub(member, #start + 1), '^(%d+):(.*)$')
    if incarnation and (alive[incarnation] or tonumber(incarnation) > newest) then
      nodes[#nodes + 1] = node
    else
      redis.call('ZREM', here, member)
    end
  end
  return nodes
end

local function append(target, keep, x_id, size, body, max_messages, max_bytes, record)
  local nodes = nodes_at(target)
  if keep == 'never' then
    return {-1, 0, 0, 0, 0, unread(), 0, nodes, {}}
  end
  if x_id ~= '' then
    local messages, bytes, oldest = totals()
    local id = tonumber(redis.call('HGET', x_ids, x_id) or '0')
    if aged[id] then
      return {messages, bytes, oldest, 0, 0, unread(), 0, nodes, {}}
    end
    local at = redis.call('ZSCORE', gone, x_id)
    if id > 0 or (at and tonumber(at) >= now - X_ID_MS) then
      return {messages, bytes, oldest, id, 0, unread(), 0, nodes, {}}
    end
  end
  if keep == 'absent' and #nodes > 0 then
    return {-1, 0, 0, 0, 0, unread(), 0, nodes, {}}
  end
  local id = redis.call('HINCRBY', meta, 'last', 1)
  local field = text(id)
  redis.call('HINCRBY', meta, 'bytes', text(size))
  redis.call('HSET', info, field, cmsgpack.pack({target, size, x_id, body}))
  redis.call('HSET', data, field, record)
  redis.call('ZADD', order, field, field)
  redis.call('ZADD', age, text(now), field)
  redis.call('ZADD', by_target, 0, prefix(target) .. padded(id))
  if x_id ~= '' then
    redis.call('HSET', x_ids, x_id, field)
  end
  local truncated = 0
  local count, bytes = totals()
  while count > 1 and (count > max_messages or bytes > max_bytes) do
    local oldest = tonumber(redis.call('ZRANGE', order, 0, 0)[1])
    bytes = bytes - remove(oldest, true)
    count = count - 1
    truncated = truncated + 1
    if aged[oldest] then
      aged[oldest] = nil
      aged_count = aged_count - 1
    end
  end
  local messages, sum, oldest = totals()
  return {messages, sum, oldest, id, 1, unread(), truncated, nodes, nodes_at(NOTICES)}
end

-- How many messages the caps made go with an id after `after` and up to `last` (0: all).
local function truncated(target, after, last)
  local number = 0
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', drops, '(' .. text(after), '+inf')) do
    local first, run_last, merged, rest = run_of(member)
    if last == 0 or first <= last then
      if merged then
        number = number + tonumber(rest)
      elseif not target or rest == target then
        local high = last == 0 and run_last or math.min(run_last, last)
        number = number + high - math.max(first, after + 1) + 1
      end
    end
  end
  for id in pairs(aged) do
    if id > after and (last == 0 or id <= last) and (not target or about(id)[1] == target) then
      number = number + 1
    end
  end
  return number
end

local function ids_after(target, after, limit)
  if not target then
    return redis.call('ZRANGEBYSCORE', order, '(' .. text(after), '+inf', 'LIMIT', 0, limit)
  end
  local start = prefix(target)
  local ids = redis.call('ZRANGEBYLEX', by_target, '(' .. start .. padded(after),
    '(' .. string.sub(start, 1, -2) .. ';', 'LIMIT', 0, limit)
  for at, member in ipairs(ids) do
    ids[at] = string.sub(member, -16)
  end
  return ids
end

local function count_after(target, after)
  local number
  if target then
    local start = prefix(target)
    number = redis.call('ZLEXCOUNT', by_target, '(' .. start .. padded(after),
      '(' .. string.sub(start, 1, -2) .. ';')
  else
    number = redis.call('ZCOUNT', order, '(' .. text(after), '+inf')
  end
  for id in pairs(aged) do
    if id > after and (not target or about(id)[1] == target) then
      number = number - 1
    end
  end
  return number
end

-- Returns left, truncated, then an id and a record for each message.
local function page(target, after, limit, max_bytes)
  local answer, bytes, last, taken = {0, 0}, 0, 0, 0
  for _, member in ipairs(ids_after(target, after, limit + aged_count)) do
    local id = tonumber(member)
    if not aged[id] then
      bytes = bytes + about(id)[4]
      if taken == limit or (taken > 0 and bytes > max_bytes) then
        break
      end
      taken = taken + 1
      last = id
      answer[#answer + 1] = id
      answer[#answer + 1] = redis.call('HGET', data, text(id))
    end
  end
  answer[1] = count_after(target, last > 0 and last or after)
  answer[2] = truncated(target, after, last)
  return answer
end

local function forget_runs(up_to, target)
  for _, member in ipairs(redis.call('ZRANGE', drops, 0, -1)) do
    local first, last, merged, rest = run_of(member)
    local meant = not target or (not merged and rest == target)
    if meant and last <= up_to then
      redis.call('ZREM', drops, member)
    elseif meant and not merged and first <= up_to then
      redis.call('ZREM', drops, member)
      add_run(up_to + 1, last, '=', rest)
    end
  end
end

local function read_up_to(up_to, target)
  for _, member in ipairs(ids_after(target, 0, -1)) do
    local id = tonumber(member)
    if id <= up_to then
      remove(id, false)
      if aged[id] then
        aged[id] = nil
        aged_count = aged_count - 1
      end
    end
  end
  forget_runs(up_to, target)
end

local function read_ids(ids)
  for id in string.gmatch(ids, '%d+') do
    local number = tonumber(id)
    if not aged[number] and redis.call('HEXISTS', info, id) == 1 then
      remove(number, false)
    end
  end
end

-- Drops the oldest: at least one, then what was kept up to `until_at` while there is need. The
-- last message of the only user stays.
local function trim(bytes, until_at)
  local freed, removed = 0, 0
  while removed < SWEPT_AT_ONCE do
    if until_at == 2 ^ 53 and redis.call('ZCARD', order) <= 1 then
      break
    end
    local oldest = redis.call('ZRANGE', order, 0, 0)[1]
    if not oldest or (removed > 0 and freed >= bytes) then
      break
    end
    if removed > 0 and tonumber(redis.call('ZSCORE', age, oldest)) > until_at then
      break
    end
    freed = freed + remove(tonumber(oldest), true)
    removed = removed + 1
  end
  return removed
end

local function sweep(limit)
  local ids = {}
  for _, id in ipairs(aged_ids) do
    ids[#ids + 1] = tonumber(id)
  end
  table.sort(ids)
  local removed = 0
  for _, id in ipairs(ids) do
    if removed == limit then
      break
    end
    remove(id, true)
    removed = removed + 1
  end
  return removed
end

local function flagged(flag, value)
  return flag == '1' and value or nil
end

if op == 'append' then
  return append(ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]),
    tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13])
elseif op == 'page' then
  return page(flagged(ARGV[6], ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]))
elseif op == 'page-or-here' then
  local answer = page(ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]))
  if #answer == 2 then
    redis.call('ZADD', here, 0, prefix(ARGV[7]) .. ARGV[11])
    return {}
  end
  return answer
elseif op == 'here' then
  redis.call('ZADD', here, 0, prefix(ARGV[4]) .. ARGV[5])
  return {}
elseif op == 'away' then
  redis.call('ZREM', here, prefix(ARGV[4]) .. ARGV[5])
  return {}
elseif op == 'trim' or op == 'sweep' then
  local removed = op == 'trim' and trim(tonumber(ARGV[4]), tonumber(ARGV[5]))
    or op == 'sweep' and sweep(tonumber(ARGV[4]))
  local messages, bytes, oldest = totals()
  return {messages, bytes, oldest, removed}
end

-- read-ids, read-up-to, read-all
local before = unread()
if op == 'read-ids' then
  read_ids(ARGV[6])
elseif op == 'read-up-to' then
  read_up_to(tonumber(ARGV[6]), flagged(ARGV[7], ARGV[8]))
else
  read_up_to(2 ^ 53, nil)
end
local messages, bytes, oldest = totals()
return {messages, bytes, oldest, before - unread(), unread(), nodes_at(NOTICES)}
