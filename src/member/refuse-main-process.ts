import { FdbError } from '../errors.js'
import { mainProcess } from '../os/main-process.js'
import { namesMain } from '../os/service-manager/service-manager.js'
import type { Settings } from './options.js'

/** Why the end of this process would end its successor too; null: it would not, as the service manager is told of that one. */
export function whyMain({ systemd }: Settings): string | null {
  return mainProcess(systemd === 'auto' && namesMain())
}

/** Throws ERR_FDB_MAIN_PROCESS where the end of this process would end `whom`, and nobody has said what is to be done. */
export function refuseMainProcess({ settings }: { readonly settings: Settings }, whom: string): void {
  const why = settings.mainProcess === 'refuse' ? whyMain(settings) : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_MAIN_PROCESS',
    `the end of process ${process.pid} would end ${whom} too, as ${why}: give join() mainProcess 'stays' and await member.stay(), or 'ends' if that is not so (KillMode=process, ExitType=cgroup); in a unit with NotifyAccess=all systemd 'auto' is enough`,
  )
}
