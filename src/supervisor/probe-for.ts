import type { Starts } from '../probing/shell.js'
import type { LeftVersion } from './left-behind.js'
import { type Probe, SETTLED } from './probe.js'
import type { VersionSettings } from './settings.js'

const FIRST_FD = 3

/** Loads what this way of asking needs, and no other: a supervisor is to be small. */
export async function probeFor(settings: VersionSettings, children: Starts): Promise<Probe> {
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

/** Of a version that another image of this process has started. Owns where it is heard. */
export async function probeOfLeft(
  { hearing, settings, place }: LeftVersion,
  serves: boolean,
  children: Starts,
): Promise<Probe> {
  if (hearing !== null) return new (await import('./notify-probe.js')).NotifyProbe(hearing)
  const { ready } = settings
  const isPrivate = ready.kind === 'http' && ready.url.startsWith('/')
  const canBeAsked = ready.kind === 'tcp' || ready.kind === 'command' || (ready.kind === 'http' && !isPrivate)
  if (!serves || (!canBeAsked && place === undefined)) return SETTLED
  const probe =
    place === undefined
      ? await probeFor(settings, children)
      : (await import('./http-probe.js')).httpProbe(place, settings.asking)
  probe.serves?.()
  return probe
}
