/** Variables by which a main process tells a worker its place. Successors that it starts itself have them too. */
const INDEX = 'FD_BROKER_WORKER'
const SERVICE = 'FD_BROKER_WORKERS'
const CONTROL = 'FD_BROKER_CONTROL'

/** A worker's place among those of its main process. */
export interface WorkerPlace {
  /** From 0. */
  readonly index: number
  /** What all of them serve. */
  readonly service: string
  /** The main process's. */
  readonly control: string
}

/** Null: this process is nobody's worker. */
export function workerPlace(env: Readonly<NodeJS.ProcessEnv> = process.env): WorkerPlace | null {
  const { [INDEX]: index = '', [SERVICE]: service = '', [CONTROL]: control = '' } = env
  if (!/^\d{1,4}$/.test(index) || service === '' || control === '') return null
  return { index: Number(index), service, control }
}

/** The environment that tells a worker its place; null: a process that is nobody's worker. */
export function workerVariables(place: WorkerPlace | null): NodeJS.ProcessEnv {
  if (place === null) return { [INDEX]: undefined, [SERVICE]: undefined }
  return { [INDEX]: `${place.index}`, [SERVICE]: place.service, [CONTROL]: place.control }
}

/** The service of one worker alone: its listeners, its connections, its successor. The first has the plain name. */
export function slotOf(service: string, index: number): string {
  return index === 0 ? service : `${service}.${index}`
}

/** The name of all, where this one may be a worker's: see {@link slotOf}. */
export function groupOf(name: string): string[] {
  const [, group] = /^(.+)\.[1-9]\d{0,3}$/.exec(name) ?? []
  return group === undefined ? [] : [group]
}
