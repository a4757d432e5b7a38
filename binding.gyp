{
  "variables": { "fdb_sanitize%": 0 },
  "targets": [
    {
      "target_name": "fd_broker",
      "sources": [
        "native/addon.c",
        "native/arguments.c",
        "native/errors.c",
        "native/makers.c",
        "native/registry.c",
        "native/sockets.c",
        "native/messages.c",
        "native/send.c",
        "native/streams.c",
        "native/splice.c",
        "native/datagrams.c",
        "native/epoll.c",
        "native/descriptors.c",
        "native/aside.c",
        "native/inspect.c",
        "native/peers.c",
        "native/children.c",
        "native/threads.c",
        "native/starter.c",
        "native/spawn.c",
        "native/execute.c",
        "native/signals.c",
        "native/preloaded.c",
        "native/waiting.c",
        "native/unix_path.c",
        "native/memory.c",
        "native/sums.c",
        "native/changes.c",
        "native/keys.c",
        "native/tls.c",
        "native/key_update.c",
        "native/locks.c",
        "native/inotify.c",
        "native/poll.c"
      ],
      "defines": ["NAPI_VERSION=9", "_GNU_SOURCE"],
      "cflags": ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
      "ldflags": ["-Wl,-z,nodelete"],
      "xcode_settings": {
        "GCC_C_LANGUAGE_STANDARD": "c11",
        "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
        "GCC_TREAT_WARNINGS_AS_ERRORS": "YES",
        "MACOSX_DEPLOYMENT_TARGET": "11.0",
        "WARNING_CFLAGS": ["-Wall", "-Wextra"]
      },
      "conditions": [
        ["fdb_sanitize == 1", {
          "cflags": ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"],
          "ldflags": ["-fsanitize=address,undefined"]
        }]
      ]
    }
  ]
}
