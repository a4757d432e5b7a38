import { existsSync, readdirSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, isAbsolute, join } from 'node:path'
import { FdbError } from '../errors.js'

const SUFFIX = '.sock'
const FOLDER = 'fd-broker'

/** The name of a daemon's control socket that was given no path: it may hold several services. */
export const DAEMON = 'daemon'

/**
 * Where the control socket of a service is that was given no path: `NAME.sock` in `$RUNTIME_DIRECTORY` (as systemd sets it), `/run/fd-broker`,
 * `$XDG_RUNTIME_DIR/fd-broker` or `/run/NAME`, in this order. None for a name that is none of a file.
 */
export function controlPlaces(name: string, env: Readonly<NodeJS.ProcessEnv>): string[] {
  if (/[/\0]/.test(name)) return []
  return [...folders(env), join('/run', name)].map(folder => join(folder, `${name}${SUFFIX}`))
}

/** The control socket for `fd-broker/auto` where {@link defaultControl} knows no place: in the user's own temporary folder. */
export function temporaryControl(name: string): string {
  refuseWithoutPlace(name)
  return join(temporaryFolder(), `${name}${SUFFIX}`)
}

/** Another user may have made it: then nothing is looked for there, and joining refuses it. */
function temporaryFolder(): string {
  return join(tmpdir(), `${FOLDER}-${process.geteuid?.() ?? 0}`)
}

/** Where the control socket is by which this service is asked: its own, else, of a worker, its main process's, else that of a daemon. */
export function askedPlaces(name: string, env: Readonly<NodeJS.ProcessEnv>): string[] {
  const usual = [name, ...groupOf(name), DAEMON].flatMap(each => controlPlaces(each, env))
  const own = controlPlaces(name, env).length > 0 && isOurs(temporaryFolder())
  return own ? [...usual, temporaryControl(name)] : usual
}

/**
 * The control socket for a service that was given no path: where one is, else the first of {@link controlPlaces} whose folder is this user's own, or can
 * be made so. Throws ERR_FDB_CONTROL_PATH.
 */
export function defaultControl(name: string, env: Readonly<NodeJS.ProcessEnv>): string {
  refuseWithoutPlace(name)
  const places = controlPlaces(name, env)
  const place = places.find(path => existsSync(path)) ?? places.find(path => isOurs(dirname(path)))
  if (place !== undefined) return place
  const folders = places.map(path => dirname(path)).join(', ')
  throw noPlace(name, `this user has no folder of its own among ${folders}`, places)
}

/** Throws ERR_FDB_CONTROL_PATH if a service of this name needs a path, independent of where it is started. */
export function refuseWithoutPlace(name: string): void {
  if (controlPlaces(name, {}).length === 0) throw noPlace(name, 'that is no name of a file', [])
}

function noPlace(name: string, why: string, places: readonly string[]): FdbError {
  return new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `there is no default place for the control socket of "${name}": ${why}: give its path (control)`,
    { details: { places } },
  )
}

/** All control sockets in those folders: none is looked into. */
export function controlsThere(env: Readonly<NodeJS.ProcessEnv>): string[] {
  const own = isOurs(temporaryFolder()) ? [temporaryFolder()] : []
  return [...folders(env), ...own].flatMap(folder => socketsIn(folder).map(name => join(folder, name)))
}

function folders({ RUNTIME_DIRECTORY = '', XDG_RUNTIME_DIR = '' }: Readonly<NodeJS.ProcessEnv>): string[] {
  const own = RUNTIME_DIRECTORY.split(':').filter(isAbsolute)
  const user = isAbsolute(XDG_RUNTIME_DIR) ? [join(XDG_RUNTIME_DIR, FOLDER)] : []
  return [...new Set([...own, join('/run', FOLDER), ...user])]
}

/** It is, or what it would be made in is. Whether others may write to it is looked at when it is used. */
function isOurs(folder: string): boolean {
  try {
    const stats = [folder, dirname(folder)].map(path => statSync(path, { throwIfNoEntry: false }))
    const nearest = stats.find(stat => stat !== undefined)
    return nearest?.isDirectory() === true && nearest.uid === process.geteuid?.()
  } catch {
    return false
  }
}

function socketsIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter(entry => entry.isSocket() && entry.name.endsWith(SUFFIX))
      .map(({ name }) => name)
      .sort()
  } catch {
    return []
  }
}

/** Variables by which a main process tells a worker its place. Successors that it starts itself have them too. */
const INDEX = 'FD_BROKER_WORKER'
const SERVICE = 'FD_BROKER_WORKERS'
const CONTROL = 'FD_BROKER_CONTROL'

/** A worker's place among those of its main process. */
export interface WorkerPlace {
  /** From 0. */
  readonly index: number
  /** The service that all workers serve. */
  readonly service: string
  /** The main process's. */
  readonly control: string
}

/** Null: this process is no worker. */
export function workerPlace(env: Readonly<NodeJS.ProcessEnv> = process.env): WorkerPlace | null {
  const { [INDEX]: index = '', [SERVICE]: service = '', [CONTROL]: control = '' } = env
  if (!/^\d{1,4}$/.test(index) || service === '' || control === '') return null
  return { index: Number(index), service, control }
}

/** The environment that tells a worker its place; for null, that of a process that is no worker. */
export function workerVariables(place: WorkerPlace | null): NodeJS.ProcessEnv {
  if (place === null) return { [INDEX]: undefined, [SERVICE]: undefined }
  return { [INDEX]: `${place.index}`, [SERVICE]: place.service, [CONTROL]: place.control }
}

/** The service of one worker alone: its listeners, its connections, its successor. The first has the plain name. */
export function slotOf(service: string, index: number): string {
  return index === 0 ? service : `${service}.${index}`
}

/** The name of all, where this one may be a worker's: see {@link slotOf}. */
function groupOf(name: string): string[] {
  const [, group] = /^(.+)\.[1-9]\d{0,3}$/.exec(name) ?? []
  return group === undefined ? [] : [group]
}
