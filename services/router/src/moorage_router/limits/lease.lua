-- Lease tokens of one GCRA bucket, paid in advance, on this server's clock.
-- KEYS[1] bucket: hash {tat: microseconds, rate: that tat was counted at, net: tokens granted less given back}
-- ARGV: rate a second, burst, tokens wanted, tokens given back, tokens known to be in use (spent during an outage)
-- Returns {granted, retry_after_us, net as text, tokens in use as text}
local rate = tonumber(ARGV[1])
local burst = tonumber(ARGV[2])
local want = tonumber(ARGV[3])
local back = tonumber(ARGV[4])
local in_use = math.min(tonumber(ARGV[5]), burst)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local held = redis.call('HMGET', KEYS[1], 'tat', 'net', 'rate')
local tat = tonumber(held[1]) or now
local net = tonumber(held[2]) or 0
local each = 1000000 / rate
local counted_at = tonumber(held[3]) or rate
if counted_at ~= rate and tat > now then
  tat = now + math.min((tat - now) * counted_at / rate, burst * each)
end
tat = math.max(tat - back * each, now + in_use * each)
net = net - back
local room = math.floor((now + burst * each - tat) / each + 0.0001)
local granted = math.max(0, math.min(want, room))
tat = tat + granted * each
net = net + granted
local retry_after = 0
if granted < want then
  retry_after = math.max(0, math.ceil(tat + each - now - burst * each))
end
redis.call('HSET', KEYS[1], 'tat', string.format('%.3f', tat), 'net', string.format('%.0f', net), 'rate', ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil((tat - now) / 1000) + 60000)
return {granted, retry_after, string.format('%.0f', net), string.format('%.3f', (tat - now) / each)}
