-- Requests that differ from one another: the path and the ids in it are new each time, and so are the fields that are.
-- Words behind "--": how many fields (0 or 8), bytes of a body (0: GET), "same" for one request over and over.

local fields, body, same, number = 0, 0, false, 0
local tail

function init(args)
  fields, body, same = tonumber(args[1]), tonumber(args[2]), args[3] == "same"
  number = os.time() % 10000 * 1000
  tail = body > 0 and ("Content-Type: application/json\r\nContent-Length: " .. body .. "\r\n\r\n" .. string.rep("x", body)) or "\r\n"
end

local browser = table.concat({
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
  "Accept: application/json, text/plain, */*",
  "Accept-Language: en-US,en;q=0.9,de;q=0.8",
  "Accept-Encoding: gzip, deflate, br",
  "X-Requested-With: XMLHttpRequest",
  "Cache-Control: no-cache",
}, "\r\n")

function request()
  if not same then number = number + 1 end
  local method = body > 0 and "POST" or "GET"
  local head = method .. " /bench/v2/items/" .. number .. "?page=" .. number % 97 .. "&trace=" .. number * 7919 .. " HTTP/1.1\r\nHost: localhost\r\n"
  if fields > 0 then
    head = head .. browser .. "\r\nReferer: http://localhost/app/items/" .. number .. "\r\nCookie: session=" .. number * 104729 .. "; theme=dark\r\n"
  end
  return head .. tail
end
