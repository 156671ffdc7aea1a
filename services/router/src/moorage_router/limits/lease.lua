-- Lease tokens of GCRA buckets that nest, paid in advance, on this server's clock.
-- KEYS: the buckets, each a hash {tat: microseconds, rate: that tat was counted at, net: tokens granted less given back}
-- ARGV[1]: 1 where none is granted unless each that is wanted from has one; then of each bucket:
--   rate a second, burst, tokens wanted, tokens given back, tokens known to be in use (spent during an outage)
-- Returns of each bucket: granted, retry_after_us, net as text, tokens in use as text
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local books, short = {}, false
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[5 * i - 3]), tonumber(ARGV[5 * i - 2])
  local want, back = tonumber(ARGV[5 * i - 1]), tonumber(ARGV[5 * i])
  local in_use = math.min(tonumber(ARGV[5 * i + 1]), burst)
  local held = redis.call('HMGET', key, 'tat', 'net', 'rate')
  local tat = tonumber(held[1]) or now
  local each = 1000000 / rate
  local counted_at = tonumber(held[3]) or rate
  if counted_at ~= rate and tat > now then
    tat = now + math.min((tat - now) * counted_at / rate, burst * each)
  end
  tat = math.max(tat - back * each, now + in_use * each)
  local room = math.floor((now + burst * each - tat) / each + 0.0001)
  local granted = math.max(0, math.min(want, room))
  short = short or (want > 0 and granted == 0)
  books[i] = {tat = tat, net = (tonumber(held[2]) or 0) - back, each = each, burst = burst, want = want,
    granted = granted, lacks = granted < want}
end
local answer = {}
for i, key in ipairs(KEYS) do
  local book = books[i]
  if short and ARGV[1] == '1' then
    book.lacks = book.lacks and book.granted == 0
    book.granted = 0
  end
  local tat, net = book.tat + book.granted * book.each, book.net + book.granted
  local retry_after = 0
  if book.lacks then
    retry_after = math.max(0, math.ceil(tat + book.each - now - book.burst * book.each))
  end
  redis.call('HSET', key, 'tat', string.format('%.3f', tat), 'net', string.format('%.0f', net),
    'rate', ARGV[5 * i - 3])
  redis.call('PEXPIRE', key, math.ceil((tat - now) / 1000) + 60000)
  answer[4 * i - 3], answer[4 * i - 2] = book.granted, retry_after
  answer[4 * i - 1], answer[4 * i] = string.format('%.0f', net), string.format('%.3f', (tat - now) / book.each)
end
return answer
