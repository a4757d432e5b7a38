import { childShell, type Starts } from '../probing/shell.js'
import type { LeftVersion } from './left-behind.js'
import { DelayProbe, type Probe, ReadyFdProbe, SETTLED } from './probe.js'
import type { VersionSettings } from './settings.js'

const FIRST_FD = 3

/** Loads only what this kind of probe needs, to keep the supervisor small. */
export async function probeFor(settings: VersionSettings, children: Starts): Promise<Probe> {
  const { asking, ready, listen, nonBlocking, cwd, env } = settings
  const nextFd = FIRST_FD + listen.length
  switch (ready.kind) {
    case 'notify':
      return new (await import('./notify-probe.js')).NotifyProbe()
    case 'fd':
      return new ReadyFdProbe(nextFd)
    case 'delay':
      return new DelayProbe(ready.ms)
  }
  const { PollingProbe, PrivateListenerProbe } = await import('./polling-probe.js')
  switch (ready.kind) {
    case 'http': {
      const { httpQuestion } = await import('../probing/http-question.js')
      return ready.url.startsWith('/')
        ? new PrivateListenerProbe(ready.url, { asking, nonBlocking }, nextFd, httpQuestion)
        : new PollingProbe(() => httpQuestion(ready.url), asking)
    }
    case 'tcp': {
      const { tcpQuestion } = await import('../probing/tcp-question.js')
      return new PollingProbe(() => tcpQuestion(ready.host, ready.port), asking)
    }
    case 'command': {
      const { commandQuestion } = await import('../probing/command-question.js')
      const shell = (pid: number) =>
        childShell(children, cwd ?? process.cwd(), { ...process.env, ...env, FD_BROKER_PID: `${pid}` })
      return new PollingProbe(pid => commandQuestion(ready.text, shell(pid)), asking)
    }
    case 'handoff': {
      const { servesUnder } = await import('./serves-under.js')
      // A version that serves may hand over by itself: another process answers then.
      return new PollingProbe(pid => servesUnder(ready.control, pid), asking, false)
    }
  }
}

/** For a version that another image of this process started. Takes ownership of its notify socket. */
export async function probeOfLeft(
  { hearing, settings, place }: LeftVersion,
  serves: boolean,
  children: Starts,
): Promise<Probe> {
  if (hearing !== null) return new (await import('./notify-probe.js')).NotifyProbe(hearing)
  const { asking, ready } = settings
  const isPrivate = ready.kind === 'http' && ready.url.startsWith('/')
  const canBeAsked = ready.kind === 'tcp' || ready.kind === 'command' || (ready.kind === 'http' && !isPrivate)
  if (!serves || (!canBeAsked && place === undefined)) return SETTLED
  const probe = place === undefined ? await probeFor(settings, children) : await atPlace(place, asking)
  probe.serves()
  return probe
}

async function atPlace(url: string, asking: VersionSettings['asking']): Promise<Probe> {
  const { PollingProbe } = await import('./polling-probe.js')
  const { httpQuestion } = await import('../probing/http-question.js')
  return new PollingProbe(() => httpQuestion(url), asking)
}
