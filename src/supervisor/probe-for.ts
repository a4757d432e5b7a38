import type { Children } from './children.js'
import { type Hearing, type Probe, SETTLED } from './probe.js'
import type { VersionSettings } from './settings.js'

const FIRST_FD = 3

/** Loads what this way of asking needs, and no other: a supervisor is to be small. */
export async function probeFor(settings: VersionSettings, children: Children): Promise<Probe> {
  const { asking, ready, listen, nonBlocking, cwd, env } = settings
  switch (ready.kind) {
    case 'notify':
      return new (await import('./notify-probe.js')).NotifyProbe()
    case 'fd':
      return new (await import('./ready-fd-probe.js')).ReadyFdProbe(FIRST_FD + listen.length)
    case 'http': {
      const { PrivateHttpProbe, httpProbe } = await import('./http-probe.js')
      return ready.url.startsWith('/')
        ? new PrivateHttpProbe(ready.url, nonBlocking, asking, FIRST_FD + listen.length)
        : httpProbe(ready.url, asking)
    }
    case 'tcp': {
      const { tcpQuestion } = await import('../probing/tcp-question.js')
      const { Repeated } = await import('./repeated-probe.js')
      return new Repeated(() => tcpQuestion(ready.host, ready.port), asking)
    }
    case 'command': {
      const { commandProbe } = await import('./command-probe.js')
      const shell = { text: ready.text, cwd: cwd ?? process.cwd(), env: { ...process.env, ...env } }
      return commandProbe(children, shell, asking)
    }
    case 'delay':
      return new (await import('./delay-probe.js')).DelayProbe(ready.ms)
    case 'handoff':
      return (await import('./handoff-probe.js')).handoffProbe(ready.control, asking)
  }
}

/** Of a version that serves already. Owns where it is heard. */
export async function probeOfServing(hearing: Hearing | null): Promise<Probe> {
  return hearing === null ? SETTLED : new (await import('./notify-probe.js')).NotifyProbe(hearing)
}
