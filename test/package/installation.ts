import { MOST_UNPACKED } from './contents.js'
import type { Project } from './project.js'

/**
 * At most, of what an installation brings, and of what it and the first answer take of processors: the clock shows less at rest.
 * On a machine on which a bare package alone takes more than half of `workMs`, what we take of that counts instead.
 */
const MOST = { packages: 1, bytes: MOST_UNPACKED, workMs: 3_000, timesBare: 2 }

/** A hypervisor that shares its processors with others makes them slower for seconds: the least of so many installations counts. */
const INSTALLATIONS = 3

/** Where the same is installed again, and where a package of the same name with nothing in it is. */
export interface Comparison {
  readonly another: () => Project
  readonly bare: () => Project
  readonly bareVersion: string
}

/** Installs as the documentation says, up to the first answer of the command. A cost above the bar is measured again, beside a bare package. */
export async function checkInstallation(
  project: Project,
  version: string,
  { another, bare, bareVersion }: Comparison,
): Promise<string[]> {
  const wrong: string[] = []
  let least = await installation(project, version, wrong)
  let leastBare = 0
  const most = () => Math.max(MOST.workMs, MOST.timesBare * leastBare)
  for (let n = 1; n < INSTALLATIONS && least > most() && wrong.length === 0; n++) {
    await using empty = bare()
    const bareMs = await installation(empty, bareVersion, wrong)
    leastBare = n === 1 ? bareMs : Math.min(leastBare, bareMs)
    await using next = another()
    least = Math.min(least, await installation(next, version, wrong))
  }
  if (wrong.length > 0) return wrong
  if (least > most())
    wrong.push(`it takes ${least} ms of a processor, more than ${most()} (a bare package: ${leastBare})`)
  const { packages, bytes } = project.brought()
  if (packages.length > MOST.packages)
    wrong.push(`it brings ${packages.length} packages, more than ${MOST.packages}`)
  if (bytes > MOST.bytes) wrong.push(`it brings ${bytes} bytes, more than ${MOST.bytes}`)
  return wrong
}

/** One installation, and the first answer: what both took of a processor, in milliseconds. */
async function installation(project: Project, version: string, wrong: string[]): Promise<number> {
  const installed = await project.install()
  if (installed.code !== 0) {
    wrong.push(`it ended with ${installed.code}: ${installed.text}`)
    return installed.workMs
  }
  const asked = await project.exec('fd-broker', '--version')
  if (/warn|deprecat/i.test(installed.text)) wrong.push(`it warns: ${installed.text}`)
  if (asked.out.trim() !== version) wrong.push(`--version says ${asked.text}`)
  const { packages, bytes } = project.brought()
  const workMs = Math.round(installed.workMs + asked.workMs)
  console.log(
    `       ${packages.length} packages (${packages.join(' ')}), ${bytes} bytes, ${Math.round(installed.ms + asked.ms)} ms (${workMs} of a processor)`,
  )
  return workMs
}
