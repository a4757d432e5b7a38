import { existsSync, readdirSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { FdbError } from '../errors.js'

const SUFFIX = '.sock'
/** Suffix for `fd-broker run`: its program may use fd-broker too, and serve at `NAME.sock`. */
const RUN_SUFFIX = `.run${SUFFIX}`
const FOLDER = 'fd-broker'

/** Name of a daemon's default control socket. A service's name would not fit: a daemon may hold several services. */
export const DAEMON = 'daemon'

/**
 * Returns the default control paths of a service, in the order of preference: `NAME.sock` in `$RUNTIME_DIRECTORY` (set by systemd),
 * `/run/fd-broker`, `$XDG_RUNTIME_DIR/fd-broker` and `/run/NAME`. Returns none if the name is not a file name.
 */
export function defaultPaths(name: string, env: Readonly<NodeJS.ProcessEnv>, suffix = SUFFIX): string[] {
  if (/[/\0]/.test(name)) return []
  return [...folders(env), join('/run', name)].map(folder => join(folder, `${name}${suffix}`))
}

/** Returns a control path in this user's temporary folder: the last resort of `fd-broker/auto` and `fd-broker run`. */
export function temporaryControl(name: string, suffix = SUFFIX): string {
  requireDefaultPath(name)
  return join(temporaryFolder(), `${name}${suffix}`)
}

/** Returns the default control path of `fd-broker run`. Throws ERR_FDB_CONTROL_PATH if the name is not a file name. */
export function runControl(name: string, env: Readonly<NodeJS.ProcessEnv>): string {
  return existingOrOwn(defaultPaths(name, env, RUN_SUFFIX)) ?? temporaryControl(name, RUN_SUFFIX)
}

export function isRunControl(path: string): boolean {
  return path.endsWith(RUN_SUFFIX)
}

/** Removes the path of an `fd-broker run` if its program serves at `NAME.sock`: operators must ask the program. */
export function withoutRunOf(controls: readonly string[]): string[] {
  const served = new Set(controls.filter(path => !isRunControl(path)).map(serviceAt))
  return controls.filter(path => !isRunControl(path) || !served.has(serviceAt(path)))
}

/** Returns the name of the service whose control socket has this default path. */
export function serviceAt(control: string): string {
  return basename(control, isRunControl(control) ? RUN_SUFFIX : SUFFIX)
}

/** If another user has created this folder, lookups skip it, and joining refuses it. */
function temporaryFolder(): string {
  return join(tmpdir(), `${FOLDER}-${process.geteuid?.() ?? 0}`)
}

/**
 * Returns the control paths at which a service may be found, in this order: the service's own, those of `fd-broker run`, for a worker those
 * of its main process, those of a daemon.
 */
export function lookupPaths(name: string, env: Readonly<NodeJS.ProcessEnv>): string[] {
  const usual = [name, ...groupOf(name), DAEMON].flatMap(each => defaultPaths(each, env))
  const runs = defaultPaths(name, env, RUN_SUFFIX)
  usual.splice(runs.length, 0, ...runs)
  const own = runs.length > 0 && isOwnFolder(temporaryFolder())
  return own ? [...usual, temporaryControl(name), temporaryControl(name, RUN_SUFFIX)] : usual
}

/**
 * Returns the control path of a service that configures none: the first of {@link defaultPaths} that exists, else the first one whose
 * folder this user owns or can create. Throws ERR_FDB_CONTROL_PATH.
 */
export function defaultControl(name: string, env: Readonly<NodeJS.ProcessEnv>): string {
  requireDefaultPath(name)
  const places = defaultPaths(name, env)
  const place = existingOrOwn(places)
  if (place !== undefined) return place
  const folders = places.map(path => dirname(path)).join(', ')
  throw noDefaultPath(name, `this user has no folder of its own among ${folders}`, places)
}

function existingOrOwn(places: readonly string[]): string | undefined {
  return places.find(path => existsSync(path)) ?? places.find(path => isOwnFolder(dirname(path)))
}

/** Reports whether the name is a file name. */
export function hasDefaultPath(name: string): boolean {
  return defaultPaths(name, {}).length > 0
}

/** Throws ERR_FDB_CONTROL_PATH if the name is not a file name. */
function requireDefaultPath(name: string): void {
  if (!hasDefaultPath(name)) throw noDefaultPath(name, 'a name of a file has no slash and no NUL', [])
}

function noDefaultPath(name: string, why: string, places: readonly string[]): FdbError {
  return new FdbError(
    'ERR_FDB_CONTROL_PATH',
    `there is no default path for the control socket of "${name}": ${why}. Give a path (control)`,
    { details: { places } },
  )
}

/** Returns the paths of all control sockets in the default folders. Processes may listen at them or not. */
export function existingControls(env: Readonly<NodeJS.ProcessEnv>): string[] {
  const own = isOwnFolder(temporaryFolder()) ? [temporaryFolder()] : []
  return [...folders(env), ...own].flatMap(folder => socketsIn(folder).map(name => join(folder, name)))
}

function folders({ RUNTIME_DIRECTORY = '', XDG_RUNTIME_DIR = '' }: Readonly<NodeJS.ProcessEnv>): string[] {
  const own = RUNTIME_DIRECTORY.split(':').filter(isAbsolute)
  const user = isAbsolute(XDG_RUNTIME_DIR) ? [join(XDG_RUNTIME_DIR, FOLDER)] : []
  return [...new Set([...own, join('/run', FOLDER), ...user])]
}

/** Whether this user owns the folder or, if it does not exist, its parent. Whether others can write to it is checked when it is used. */
function isOwnFolder(folder: string): boolean {
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

/** Environment variables that identify a worker. Processes that the worker starts inherit them. */
const INDEX = 'FD_BROKER_WORKER'
const SERVICE = 'FD_BROKER_WORKERS'
const CONTROL = 'FD_BROKER_CONTROL'

export interface WorkerPlace {
  /** The worker's number, from 0. */
  readonly index: number
  readonly service: string
  /** Control path of the main process. */
  readonly control: string
}

/** Returns which worker this process is; null if it is not a worker. */
export function workerPlace(env: Readonly<NodeJS.ProcessEnv> = process.env): WorkerPlace | null {
  const { [INDEX]: index = '', [SERVICE]: service = '', [CONTROL]: control = '' } = env
  if (!/^\d{1,4}$/.test(index) || service === '' || control === '') return null
  return { index: Number(index), service, control }
}

/** Returns the variables of a worker; for null those of a process that is not a worker. */
export function workerVariables(place: WorkerPlace | null): NodeJS.ProcessEnv {
  if (place === null) return { [INDEX]: undefined, [SERVICE]: undefined }
  return { [INDEX]: `${place.index}`, [SERVICE]: place.service, [CONTROL]: place.control }
}

/** Returns the name of one worker's own service, which has listeners, connections and a successor. The first worker's is `service`. */
export function slotOf(service: string, index: number): string {
  return index === 0 ? service : `${service}.${index}`
}

/** Returns the workers' common name if `name` may be a worker's: see {@link slotOf}. */
function groupOf(name: string): string[] {
  const [, group] = /^(.+)\.[1-9]\d{0,3}$/.exec(name) ?? []
  return group === undefined ? [] : [group]
}
