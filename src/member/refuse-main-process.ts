import { FdbError } from '../errors.js'
import { mainProcess } from '../process/main-process.js'
import type { Settings } from './options.js'

/** Throws ERR_FDB_MAIN_PROCESS where the end of this process would end `whom`, and nobody has said what is to be done. */
export function refuseMainProcess({ settings }: { readonly settings: Settings }, whom: string): void {
  const why = settings.mainProcess === 'refuse' ? mainProcess() : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_MAIN_PROCESS',
    `the end of process ${process.pid} would end ${whom} too, as ${why}: give join() mainProcess 'stays' and await member.stay(), or 'ends' if that is not so (KillMode=process, ExitType=cgroup)`,
  )
}
