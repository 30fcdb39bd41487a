-- One quota for many processes: one key, one script, one exchange.
--
-- KEYS[1]  the state
-- ARGV[1]  the message of a process, JSON
-- Returns the answer, JSON. central.py documents both, and does the same in Python over the
-- project's own rule: a test compares them. `C` holds the constants of that module.
--
-- All times are seconds since the state was created, by the server's clock. Only durations are
-- exchanged, so that the clocks of processes need not agree.

local NEVER = -1e18
local INTERACTIVE, BULK = 1, 2
local max, min, floor = math.max, math.min, math.floor

local message = cjson.decode(ARGV[1])
local terms = message.terms
local N, W = terms.requests, terms.window
local most_jitter = max(terms.jitter, min(C.MOST_JITTER, W / 4))

local time = redis.call('TIME')
local seconds, micros = tonumber(time[1]), tonumber(time[2])
-- Another run of the server, or another server after a failover, may have lost writes.
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then return cjson.encode({ refused = 'info' }) end
local run = string.match(info, 'run_id:(%w+)')

local stored = redis.call('GET', KEYS[1])
local state = stored and cmsgpack.unpack(stored)

-- The clock. A process says how long ago, by its own clock, it heard the time from here. So a step
-- of the server's clock is noticed and taken out. Who has not heard it cannot tell a step from an
-- outage: while others hold slots or wait, who can tell and will speak soon, the time stands still.
-- The state's time may be slower than the real one, which only delays, but never faster.
local function busy()
  for _, process in pairs(state.processes) do
    if #process.open > 0 or max(process.since[INTERACTIVE], process.since[BULK]) > NEVER then
      return true
    end
  end
  return false
end

local function read_clock()
  local wall = (seconds - state.base) + micros / 1000000 + state.offset
  local clock, known = message.clock, wall
  if clock[1] and message.epoch == state.epoch then
    local heard, least, most = clock[1], clock[2], clock[3]
    if heard <= state.held_at then least = least - state.held end
    known = max(wall, heard + least)
    if known > heard + most + C.CLOCK_SLACK then known = heard + most end
  elseif wall > state.now + C.CLOCK_SLACK and busy() then
    known = state.now + C.MARGIN
    state.held, state.held_at = state.held + wall - known, state.now
  end
  local now = max(known, state.now)
  if known ~= wall then state.offset = state.offset + (now - wall) end
  return now
end

local function same_terms()
  for name, value in pairs(terms) do
    if state.terms[name] ~= value then return false end
  end
  return true
end

local function in_use(now)
  for _, process in pairs(state.processes) do
    if process.seen + C.FORGET > now then return true end
  end
  return false
end

local lost, now
if not state then
  lost = 'empty'
elseif state.format ~= C.FORMAT then
  -- `used` is there in every format; of the rest nothing is known.
  if (state.used or 0) + C.FORGET > seconds then return cjson.encode({ refused = 'format' }) end
  lost, state = 'format', nil
else
  now = read_clock()
  if state.run ~= run then
    lost = 'restarted'
  elseif message.epoch == state.epoch and message.number > state.number then
    lost = 'older'
  elseif not same_terms() then
    if in_use(now) then return cjson.encode({ refused = 'terms', terms = state.terms }) end
    lost = 'terms'
  end
end

if lost then
  -- What has left is not known. At worst a whole quota leaves when the last lease ends.
  local old, elapsed = state, now
  state = {
    lost = lost, format = C.FORMAT, epoch = message.process .. ':' .. message.seq, run = run, terms = terms,
    base = seconds, offset = 0, held = 0, held_at = NEVER, now = micros / 1000000,
    log = {}, allowed = NEVER, open = 0, number = 0, ready = micros / 1000000 + C.LEASE,
    share = 1, share_since = 0, limit = N,
    jitter = terms.jitter, start_jitter = terms.jitter,
    least_jitter = min(terms.jitter, C.LEAST_JITTER),
    flow = { ends = NEVER, probe_due = false, next = NEVER, bulk_due = NEVER },
    passed_over = 0, probe = -1, refusals = 0, processes = {},
  }
  now = state.now
  if old then
    -- A penalty and a smaller share outlive what else was lost.
    state.flow.ends, state.flow.probe_due = old.flow.ends - elapsed + now, old.flow.probe_due
    state.share, state.share_since = old.share, old.share_since - elapsed + now
  end
  -- Interactive requests may be about: bulk requests must not take the first window whole.
  state.flow.company = state.ready + 2 * (W + most_jitter)
end

local flow, log = state.flow, state.log
local process = state.processes[message.process]
if process and message.seq <= process.seq then return cjson.encode({ stale = true }) end
state.now = now

-- The rule: see rule.py. `log` holds times and counts of departures by turns.

local bin = N > C.BINS and W / C.BINS or 0

local function send(at, count)
  local n = #log
  if n > 0 and log[n - 1] >= at then
    log[n] = log[n] + count
  else
    log[n + 1] = at + bin
    log[n + 2] = count
  end
end

if lost then send(state.ready, N) end

local function forget_departures()
  local i = 1
  while log[i] and log[i] + 2 * W + most_jitter + C.MARGIN <= now do i = i + 2 end
  if i == 1 then return end
  local kept = {}
  for j = i, #log do kept[#kept + 1] = log[j] end
  state.log, log = kept, kept
end

local function in_window()
  local count = state.open
  for i = 1, #log, 2 do
    if log[i] + W > now then count = count + log[i + 1] end
  end
  return count
end

-- The time from which one more may leave: the highest bound of all boundaries that can bind. They
-- lie just below a departure, or just below a window after one.
local function earliest()
  if state.open >= state.limit then
    return now + floor(state.open / state.limit) * (W + state.jitter)
  end
  local departed = 0
  for i = 2, #log, 2 do departed = departed + log[i] end
  local index = departed + state.open + 1 - state.limit
  local best, before = NEVER, 0
  local back, out = 1, 0 -- departures up to a window before this one
  local ahead, up_to = 1, 0 -- departures up to a window after it
  for i = 1, #log, 2 do
    local at = log[i]
    while log[back] <= at - W do
      out = out + log[back + 1]
      back = back + 2
    end
    local previous = before - out
    if previous > 0 and before >= index then
      local fall = W / previous * (before - index)
      if fall < W and at - fall > best then best = at - fall end
    end
    while log[ahead] and log[ahead] < at + W do
      up_to = up_to + log[ahead + 1]
      ahead = ahead + 2
    end
    -- Where `before` reaches the index the fall is a whole window, which rounding may hide.
    if up_to >= index and (before < index or at + W <= now) then
      local fall = W / (up_to - before) * (up_to - index)
      if fall < W and at + W - fall > best then best = at + W - fall end
    end
    before = before + log[i + 1]
  end
  return best + W + state.jitter + C.MARGIN
end

-- Penalties, even flow, bulk beside interactive requests, the share: see flow.py.

local function flow_earliest()
  if flow.probe_due then return max(now, flow.ends) end
  return flow.next
end

-- A request is to leave at a time. `since` is from when on it could have left, nil if it did not
-- wait: what was lost since then, because processes or messages are late, is made up.
local function leave(at, since, kind)
  local probe = flow.probe_due
  if probe then
    flow.next = at + C.PROBE
  elseif since then
    flow.next = max(flow.next, since) + state.interval
  end
  local before = kind == BULK and C.BULK_BURST or C.MAKE_UP
  flow.bulk_due = max(flow.bulk_due, (since or at) - before * W) + state.interval
  flow.probe_due = false
  return probe
end

local function share_now()
  if state.share == 1 then return 1 end
  return min(state.share + max(now - state.share_since, 0) * C.REGAINED, 1)
end

local function use_share()
  local share = share_now()
  if share == 1 then state.share = 1 end
  state.limit = max(floor(N * share), 1)
  state.interval = (W + state.jitter) / state.limit
end

-- The jitter allowance, measured by all processes together: see jitter.py. One host's own delays
-- differ by less than those of hosts near and far.

local function jitter_of(upper)
  local jitter = 0
  for _, kind in ipairs({ 'round_trips', 'set_ups' }) do
    local lowest, highest = math.huge, NEVER
    for _, other in pairs(state.processes) do
      local delays = other.delays[kind]
      if delays then
        lowest = min(lowest, delays.lowest)
        highest = max(highest, delays[upper])
      end
    end
    jitter = max(jitter, highest - lowest)
  end
  return jitter
end

local function use_delays()
  if not terms.adaptive then return end
  local start, count, sparse = state.start_jitter, 0, false
  for _, other in pairs(state.processes) do
    local delays = other.delays.round_trips
    count = count + (delays and delays.dense or 0)
    sparse = sparse or not delays or delays.dense == 0
  end
  -- Below the start only if each process has measured for long, and all together enough.
  if count >= C.DENSE and not sparse then
    local measured = jitter_of('highest') * C.FACTOR_BELOW + C.CUSHION
    start = min(max(measured, state.least_jitter), start)
  end
  state.jitter = min(max(jitter_of('together') * C.FACTOR_ABOVE + C.CUSHION, start), most_jitter)
end

local function widen()
  local needed = min(jitter_of('highest'), most_jitter)
  if not terms.adaptive or needed <= state.jitter then return false end
  state.jitter, state.start_jitter, state.least_jitter = needed, needed, needed
  return true
end

local function penalise(refusal)
  state.refusals = state.refusals + 1
  local at = now - refusal.age
  local sent = refusal.sent_age and now - refusal.sent_age or at
  local explained = sent < flow.ends
  if explained and not refusal.retry_after then return end
  flow.ends = max(flow.ends, at + (refusal.retry_after or terms.penalty))
  flow.probe_due = true
  if explained or refusal.slot == state.probe or widen() then return end
  state.share = max(share_now() * C.CUT, C.LEAST_SHARE)
  state.share_since = flow.ends
end

-- Who waits elsewhere. A process that does not come when its time has come has lost its place.

local function waits(other, kind)
  return other.since[kind] > NEVER and other.due[kind] + C.LATE > now
end

local function others_wait(kind)
  for name, other in pairs(state.processes) do
    if name ~= message.process and waits(other, kind) then return true end
  end
  return false
end

-- From when on one more request could leave, and at most a window ago.
local function could_leave(kind)
  use_share()
  local soonest = earliest()
  state.allowed = soonest > now and soonest or min(state.allowed, now)
  local since = max(state.allowed, flow_earliest(), state.ready, now - C.MAKE_UP * W)
  if kind == BULK and now < flow.company then since = max(since, flow.bulk_due) end
  return since
end

-- When one more of this process may leave, where one of any could since a time.
local function due_for(kind, since)
  local due = since
  local other_kind = INTERACTIVE + BULK - kind
  if (kind == BULK) ~= (state.passed_over >= C.BULK_TURN - 1) and others_wait(other_kind) then
    due = max(due, now) + state.interval
  end
  local before = 0
  for name, other in pairs(state.processes) do
    if name ~= message.process and waits(other, kind)
      and (process.since[kind] == NEVER or other.since[kind] < process.since[kind]) then
      before = before + 1
    end
  end
  return due + before * state.interval
end

-- Processes that are silent for a lease cannot send any more. What they held counts as sent.
for name, other in pairs(state.processes) do
  local count = #other.open
  if count > 0 and other.seen + C.LEASE <= now then
    state.open = state.open - count
    send(max(now, state.ready), count)
    other.open = {}
  end
  if other.seen + C.FORGET <= now then state.processes[name] = nil end
end
forget_departures()

process = state.processes[message.process]
if not process then
  process = {
    open = {}, refused = 0, since = { NEVER, NEVER }, due = { NEVER, NEVER },
  }
  state.processes[message.process] = process
end
process.seq, process.seen, process.delays = message.seq, now, message.delays

-- What became of its slots. Those that it does not name were released, or never reached it.
local sent, still_open, gone = {}, {}, {}
if message.epoch == state.epoch then
  for _, slot in ipairs(message.sent) do sent[slot[1]] = slot[2] end
  for _, slot in ipairs(message.open) do still_open[slot] = true end
elseif message.epoch ~= '' then
  -- It knows what the state has lost.
  if message.penalty_left > 0 then
    flow.ends, flow.probe_due = max(flow.ends, now + message.penalty_left), true
  end
  if message.share < share_now() then state.share, state.share_since = message.share, now end
end
local kept = {}
for _, slot in ipairs(process.open) do
  if still_open[slot] then
    kept[#kept + 1] = slot
    still_open[slot] = nil
  else
    state.open = state.open - 1
    -- It left earlier than this by what the message took; a departure counted late is safe.
    if sent[slot] then send(max(now - sent[slot], state.ready), 1) end
  end
end
process.open = kept
for slot in pairs(still_open) do gone[#gone + 1] = slot end

use_delays()
for _, refusal in ipairs(message.refusals) do
  if refusal.index > process.refused then
    process.refused = refusal.index
    penalise(refusal)
  end
end

local grants, again = {}, C.SOON
local ahead = min(message.ahead, C.MOST_AHEAD)
local bounds = { math.huge, max(floor(N * C.BULK_PART), 1) }
for kind = INTERACTIVE, BULK do
  local want, got = message.want[kind], 0
  -- Those who need not wait leave at once; those who wait leave evenly.
  local waited = process.since[kind] > NEVER or others_wait(kind)
  while got < want do
    if got >= bounds[kind] then
      again = 0
      break
    end
    local since = could_leave(kind)
    local due = due_for(kind, since)
    waited = waited or due > now
    if due > now + ahead then
      local wait = due - now <= C.SOON and due - now or C.LOOK
      again = min(again, wait)
      if process.since[kind] == NEVER then process.since[kind] = now end
      process.due[kind] = now + wait
      break
    end
    got = got + 1
    state.number = state.number + 1
    state.open = state.open + 1
    process.open[#process.open + 1] = state.number
    local at = max(due, now)
    if leave(at, waited and since or nil, kind) then state.probe = state.number end
    grants[#grants + 1] = { state.number, at - now }
    process.since[kind] = NEVER
    if kind == BULK then
      state.passed_over = 0
    elseif others_wait(BULK) then
      state.passed_over = state.passed_over + 1
    end
  end
  if kind == INTERACTIVE and want > 0 then
    flow.company = max(flow.company, now + C.COMPANY * W)
  end
  if got >= want then process.since[kind] = NEVER end
end
use_share()
if message.leaving and #process.open == 0 then state.processes[message.process] = nil end
state.used = seconds
redis.call('SET', KEYS[1], cmsgpack.pack(state))

local hold = state.ready + W + state.jitter - now

return cjson.encode({
  epoch = state.epoch, number = state.number, now = now,
  lost = hold > 0 and state.lost or nil, hold = hold > 0 and hold or nil,
  grants = grants, gone = gone, again = again,
  next = max(earliest(), flow_earliest(), state.ready, now) - now, interval = state.interval,
  requests = state.limit, share = share_now(), jitter = state.jitter,
  open = state.open, in_window = in_window(),
  penalty_left = max(flow.ends - now, 0), refusals = state.refusals,
})
