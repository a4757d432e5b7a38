import type { Children } from './children.js'
import { type Hearing, type Probe, SETTLED } from './probe.js'
import type { VersionSettings } from './settings.js'

const FIRST_FD = 3

/** Loads what this way of asking needs, and no other: a supervisor is to be small. */
export async function probeFor(settings: VersionSettings, children: Children): Promise<Probe> {
  const { ready, listen, nonBlocking, cwd, env } = settings
  switch (ready.kind) {
    case 'notify':
      return new (await import('./notify-probe.js')).NotifyProbe()
    case 'fd':
      return new (await import('./ready-fd-probe.js')).ReadyFdProbe(FIRST_FD + listen.length)
    case 'http': {
      const { PrivateHttpProbe, httpProbe } = await import('./http-probe.js')
      return ready.url.startsWith('/') ? new PrivateHttpProbe(ready.url, nonBlocking) : httpProbe(ready.url)
    }
    case 'tcp':
      return (await import('./tcp-probe.js')).tcpProbe(ready.host, ready.port)
    case 'command': {
      const { commandProbe } = await import('./command-probe.js')
      return commandProbe(children, ready.text, cwd ?? process.cwd(), { ...process.env, ...env })
    }
    case 'delay':
      return new (await import('./delay-probe.js')).DelayProbe(ready.ms)
    case 'handoff':
      return (await import('./handoff-probe.js')).handoffProbe(ready.control)
  }
}

/** Of a version that serves already. Owns where it is heard. */
export async function probeOfServing(hearing: Hearing | null): Promise<Probe> {
  return hearing === null ? SETTLED : new (await import('./notify-probe.js')).NotifyProbe(hearing)
}
