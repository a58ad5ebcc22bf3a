"""The nginx configuration of `ioaccel.testing.shaped`.

nginx itself knows objects (files), ranges, If-Match and the rate of a connection; Lua adds the delay,
the 503s, the counts and the errors as S3 words them.
"""

from __future__ import annotations

import os
from pathlib import Path

# nginx holds a connection to its rate by a pause after each piece of this size, none after the last.
# Pauses are whole milliseconds: a MiB takes 13.1 ms at 80 MB/s, so they are 1% too short.
CHUNK = 1 << 20

_LUA = """
local DELAY, RATE, THROTTLED, CHUNK = {delay}, {rate}, {throttled}, {chunk}
local ERRORS = {{
  [403] = {{"AccessDenied", "Access Denied"}},
  [404] = {{"NoSuchKey", "The specified key does not exist."}},
  [405] = {{"MethodNotAllowed", "The specified method is not allowed against this resource."}},
  [412] = {{"PreconditionFailed", "At least one of the pre-conditions you specified did not hold"}},
  [416] = {{"InvalidRange", "The requested range is not satisfiable"}},
  [503] = {{"SlowDown", "Please reduce your request rate."}},
}}

-- How many bytes of the file the answer will have.
local function length()
  local file = ngx.req.get_method() == "GET" and io.open(ngx.var.request_filename, "rb")
  if not file then return 0 end
  local size = file:read(0) and file:seek("end") or 0 -- a directory, too, has no bytes
  file:close()
  local first, last = (ngx.var.http_range or ""):match("^bytes=(%d*)%-(%d*)$")
  first, last = tonumber(first), tonumber(last)
  if first then
    return math.max(math.min(last or size, size - 1) - first + 1, 0)
  end
  return math.min(last or size, size)
end

shaped = {{}}

function shaped.access()
  local pause = DELAY
  if RATE > 0 then
    -- nginx pauses between pieces only: what one piece takes is waited for here, before the answer.
    local bytes = length()
    if bytes > 0 then pause = pause + ((bytes - 1) % CHUNK + 1) / RATE end
  end
  if pause > 0 then ngx.sleep(pause) end
  if THROTTLED > 0 and math.random() < THROTTLED then return ngx.exit(503) end
end

function shaped.error()
  local code, message = unpack(ERRORS[ngx.status] or {{"InternalError", "See the store's error.log"}})
  local body = '<?xml version="1.0" encoding="UTF-8"?>\\n<Error><Code>' .. code .. "</Code><Message>"
    .. message .. "</Message><Resource>" .. ngx.var.request_uri:gsub("%?.*", ""):gsub("[<>&]", "")
    .. "</Resource><RequestId>" .. ngx.var.request_id .. "</RequestId></Error>"
  ngx.header.content_type = "application/xml"
  ngx.header.content_length = #body
  ngx.header.etag = nil
  ngx.header.last_modified = nil
  ngx.print(body)
end

function shaped.count()
  local counts = ngx.shared.counts
  counts:incr("requests " .. ngx.var.kind .. " " .. ngx.status, 1, 0)
  counts:incr("bytes", tonumber(ngx.var.body_bytes_sent), 0)
end

function shaped.counts()
  local counts = ngx.shared.counts
  for _, name in ipairs(counts:get_keys(0)) do
    ngx.say(name, " ", string.format("%d", counts:get(name)))
  end
  if ngx.req.get_method() == "DELETE" then counts:flush_all() end
end
"""

_CONF = """
daemon off;
{user}
worker_processes {workers};
worker_rlimit_nofile 8192;
pid "{run}/nginx.pid";
error_log "{run}/error.log" warn;
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
events {{ worker_connections 4096; }}
http {{
  lua_shared_dict counts 1m;
  init_by_lua_file "{run}/shaped.lua";
  init_worker_by_lua_block {{ math.randomseed(ngx.worker.id() + 1) }}

  access_log off;
  client_body_temp_path "{run}/body";
  proxy_temp_path "{run}/proxy";
  fastcgi_temp_path "{run}/fastcgi";
  uwsgi_temp_path "{run}/uwsgi";
  scgi_temp_path "{run}/scgi";

  sendfile on;
  sendfile_max_chunk {chunk};
  tcp_nopush on;
  # A store does not hang up on a busy client.
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  default_type binary/octet-stream;
  merge_slashes off;  # a//b is another key than a/b
  server_tokens off;

  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root "{objects}";
    set $kind $request_method;
    error_page 403 404 405 412 416 503 @error;
    log_by_lua_block {{ shaped.count() }}

    location / {{
      access_by_lua_block {{ shaped.access() }}
      limit_rate {rate};
      try_files $uri =404;  # a directory is no object
    }}
    location ~ ^/[^/]*/?$ {{
      set $kind LIST;
      access_by_lua_block {{ shaped.access() }}
      proxy_pass http://unix:{listing};
    }}
    location @error {{
      content_by_lua_block {{ shaped.error() }}
    }}
    location = /-/counts {{
      log_by_lua_block {{ }}
      content_by_lua_block {{ shaped.counts() }}
    }}
    location = /-/{token} {{
      log_by_lua_block {{ }}
      return 204;
    }}
  }}
}}
"""


def write_configuration(
    run: Path,
    *,
    objects: Path,
    modules: Path,
    listing: Path,
    port: int,
    token: str,
    delay: float,
    rate: int,
    throttled: float,
    workers: int,
) -> Path:
    """Writes the configuration into ``run`` and returns the path of its main file."""
    lua = _LUA.format(delay=delay, rate=rate, throttled=throttled, chunk=CHUNK)
    (run / "shaped.lua").write_text(lua)
    conf = run / "nginx.conf"
    conf.write_text(
        _CONF.format(
            # Workers of root would become another user, who may not read the files of tests.
            user="user root;" if os.geteuid() == 0 else "",
            workers=workers,
            run=run,
            modules=modules,
            chunk=CHUNK,
            port=port,
            objects=objects,
            rate=rate,
            listing=listing,
            token=token,
        )
    )
    return conf
