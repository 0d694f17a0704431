-- The same as exchange() of _protocol.py, line by line; a test compares the two.
-- KEYS[1]: the record, a hash. ARGV: what Request.arguments() writes.
local key, format, worker, dims = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local function arg(place) return tonumber(ARGV[3 + dims + place]) end
local function text(number) return string.format('%.17g', number) end
local expected, seen, back, pause, resume, cut = arg(1), arg(2), arg(3), arg(4), arg(5), arg(6)
local held, size, asked, probe, passed_in = arg(7), arg(8), arg(9), arg(10), arg(11)
local MICRO = 1000000
local SLOWEST, CUT, RECOVERY, CUT_INTERVAL = 0.02, 0.8, 0.01, 1
local WORKER_GONE, BACK, SLOT_RETRY, STEP, PROBE_TIME = 10, 5, 0.1, 0.5, 5
local HORIZON, LONGEST, AT_ONCE, SMOOTH, LARGEST = 0.25, 1, 20, 16, 1e300

local time = redis.call('TIME')
local clock = (tonumber(time[1]) - 1735689600) * MICRO + tonumber(time[2])

local record, flat = {}, redis.call('HGETALL', key)
for place = 1, #flat, 2 do
  local number = tonumber(flat[place + 1])
  if number and number > -LARGEST and number < LARGEST then record[flat[place]] = number end
end
local other = record['v'] or (record['n'] and 1) or format
if other ~= format then
  return redis.error_reply('GREENKIT the record is of format ' .. other .. ', and this release of greenkit has ' .. format)
end
local written = {}
local function write(name, number)
  record[name] = number
  written[#written + 1] = name
  written[#written + 1] = text(number)
end

local lost = (record['n'] or 0) < seen
write('v', format)
write('n', math.max(record['n'] or 0, seen) + 1)

local now, before, passed = clock + (record['o'] or 0), record['at'] or 0, 0
if expected >= 0 and (lost or now > expected + STEP * MICRO) then now = expected end
now = math.max(now, before)
if before ~= 0 then passed = now - before end
write('o', now - clock)
write('at', now)

local factor = math.min(1, math.max(SLOWEST, (record['f'] or 1) + passed / MICRO * RECOVERY))
if cut == 1 and now - (record['cut'] or 0) >= CUT_INTERVAL * MICRO then
  factor = math.max(SLOWEST, factor * CUT)
  write('cut', now)
end
write('f', factor)

local empty = back == 1 and now - (record['back'] or 0) > BACK * MICRO
if back == 1 then write('back', now) end

local tats, intervals, bursts, longest = {}, {}, {}, 0
local starts, ends, tops = {}, {}, {} -- of windows by the calendar, by the clock as it is
for dim = 1, dims do
  local base, name = 11 + (dim - 1) * 10, ARGV[3 + dim]
  local interval, burst, floor = arg(base + 1), arg(base + 2), arg(base + 3)
  local delta, left, share = arg(base + 4), arg(base + 5), arg(base + 6)
  if share >= 0 then write('c:' .. name, share) end
  share = math.min(1, math.max(SLOWEST, record['c:' .. name] or 1))
  if arg(base + 10) ~= 0 then
    local bounds = { arg(base + 7), arg(base + 8), arg(base + 9), arg(base + 10) }
    local now_in = clock < bounds[2] and 1 or (clock >= bounds[3] and 3 or 2)
    local counted, used = record['t:' .. name] or 0, record['u:' .. name] or 0
    local same = counted == bounds[now_in + 1]
    if counted > bounds[now_in + 1] then
      for later = now_in + 1, 3 do
        if counted == bounds[later + 1] then now_in, same = later, true end
      end
    end
    if not same then used = 0 end
    local start, ending = bounds[now_in], bounds[now_in + 1]
    local tat = start + used * interval
    if lost and start <= floor and floor < ending then tat = math.max(tat, floor) end
    tat = math.max(start, tat + delta * interval)
    if left >= 0 then tat = math.max(tat, start + (burst - left) * interval) end
    tat = math.min(tat, ending - 1000) -- however large, a debt ends with its window
    tats[dim], intervals[dim], bursts[dim] = tat, interval, burst
    starts[dim], ends[dim] = start, ending
    tops[dim] = start + burst * share * interval * (1 + 1e-9)
  else
    interval = interval / (factor * share)
    local tat, was = record['t:' .. name] or now, record['i:' .. name] or interval
    if tat > now and was > 0 then tat = now + (tat - now) * interval / was end
    if lost then tat = math.max(tat, floor) end
    if empty then tat = math.max(tat, now + burst * interval) end
    if delta > 0 then tat = math.max(tat, now) end
    if delta ~= 0 then tat = tat + delta * interval end
    if left >= 0 then tat = math.max(tat, now + (burst - left) * interval) end
    tats[dim], intervals[dim], bursts[dim] = tat, interval, burst
    longest = math.max(longest, burst * arg(base + 1))
  end
end

local paused = record['pause'] or 0
if resume == 1 then paused = 0 end
if pause > 0 then paused = math.max(paused, now + pause) end
write('pause', paused)

local half, until_, out = record['half'] or 0, record['probe'] or 0, record['out'] or 0
if pause > 0 and asked == 1 then
  half = (record['pauses'] or 0) + 1
  write('pauses', half)
  until_, out = 0, 0
elseif resume == 1 or (until_ ~= 0 and now >= until_) or (passed_in == 1 and probe == half) then
  half, until_, out = 0, 0, 0
elseif probe == half then
  out = 0
end

local workers, others, gone = 1, 0, {}
for name, number in pairs(record) do
  if string.sub(name, 1, 2) == 'w:' and string.sub(name, 3) ~= worker then
    local one = string.sub(name, 3)
    if now - number > WORKER_GONE * MICRO then
      gone[#gone + 1] = 'w:' .. one
      gone[#gone + 1] = 'h:' .. one
    else
      workers = workers + 1
      others = others + (record['h:' .. one] or 0)
    end
  end
end
-- In slices: unpack() takes no more than a few thousand.
for first = 1, #gone, 1000 do
  redis.call('HDEL', key, unpack(gone, first, math.min(first + 999, #gone)))
end

local horizon, usual = HORIZON * MICRO, record['s']
if size == 0 then horizon = math.min(LONGEST * MICRO, math.max(horizon, AT_ONCE * workers * math.max(0, usual or 0))) end

local offsets, full = {}, false
local place, last = 11 + dims * 10, #ARGV - 3 - dims
while place + dims < last do
  local ahead, at, closed = arg(place + 1), math.max(now, paused), false
  for dim = 1, dims do
    local cost = arg(place + 1 + dim)
    if cost ~= 0 and not ends[dim] then at = math.max(at, tats[dim] - math.max(0, bursts[dim] - cost) * intervals[dim]) end
  end
  for dim = 1, dims do
    local cost = arg(place + 1 + dim)
    if ends[dim] and cost ~= 0 then
      local rest = math.max(ends[dim] - clock, 1)
      if tats[dim] + cost * intervals[dim] > tops[dim] or at - now >= rest then
        at, closed = math.max(at, now + rest), true
      end
    end
  end
  full = size > 0 and held + others >= size
  local missing = closed or full or (half ~= 0 and out ~= 0)
  if missing and not closed then at = math.max(at, now + SLOT_RETRY * MICRO) end
  if not missing and at - now <= ahead * horizon + 0.001 then
    offsets[#offsets + 1] = text(at - now)
    held = held + 1
    if half ~= 0 then
      out = 1
      if until_ == 0 then until_ = at + PROBE_TIME * MICRO end
    end
    local takes = 0
    for dim = 1, dims do
      local cost = arg(place + 1 + dim)
      if cost ~= 0 and ends[dim] then
        tats[dim] = tats[dim] + cost * intervals[dim]
      elseif cost ~= 0 then
        tats[dim] = math.max(tats[dim], at) + cost * intervals[dim]
        takes = math.max(takes, cost * intervals[dim])
      end
    end
    usual = math.max(0, usual or takes)
    usual = usual + (takes - usual) / SMOOTH
  else
    offsets[#offsets + 1] = text(-1 - (at - now))
    if ahead > 0 then break end
  end
  place = place + 1 + dims
end

if usual then write('s', usual) end
write('w:' .. worker, now)
write('h:' .. worker, held)
write('half', half)
write('probe', until_)
write('out', out)
local reply = { text(record['n']), text(now), text(math.max(0, paused - now)), text(factor), tostring(workers), text(horizon), full and '1' or '0', text(half), half ~= 0 and out ~= 0 and '1' or '0' }
for dim = 1, dims do
  if ends[dim] then
    write('t:' .. ARGV[3 + dim], ends[dim])
    write('u:' .. ARGV[3 + dim], (tats[dim] - starts[dim]) / intervals[dim])
  else
    write('t:' .. ARGV[3 + dim], tats[dim])
    write('i:' .. ARGV[3 + dim], intervals[dim])
  end
  reply[#reply + 1] = text(tats[dim])
end
for name, number in pairs(record) do
  if string.sub(name, 1, 2) == 't:' then longest = math.max(longest, number - now) end
end
redis.call('HSET', key, unpack(written))
-- Idle for twice as long as the budget takes to fill, it is full, and nothing is worth remembering.
redis.call('PEXPIRE', key, string.format('%.0f', math.min(1e12, 2 * longest / 1000) + 60000))
for _, offset in ipairs(offsets) do reply[#reply + 1] = offset end
return reply
