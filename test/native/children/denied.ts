// As a user without rights: binds a low port and a path in a folder of another user; prints the refusals.
import { readFileSync } from 'node:fs'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'

if (process.getuid!() === 0) {
  process.setgroups!([])
  process.setgid!(65534)
  process.setuid!(65534)
}

function refusal(text: string): string {
  try {
    bindListener(parseListenerSpec(text)).close()
    return 'bound'
  } catch (error) {
    const { code, message } = error as { code: string; message: string }
    return `${code} ${message}`
  }
}

const unprivileged = Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8'))
process.stdout.write(
  JSON.stringify([
    unprivileged > 1 ? refusal(`tcp://127.0.0.1:${unprivileged - 1}`) : null,
    refusal(`unix:${process.argv[2]}`),
  ]),
)
