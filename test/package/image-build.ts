import { spawn, spawnSync } from 'node:child_process'
import { basename } from 'node:path'
import { parseDockerfile, type Stage } from './dockerfile.js'

/** The user of an image, without its own root: `setpriv` of util-linux. */
const AS = (user: string) =>
  `setpriv --reuid=${user.split(':')[0]} --regid=${user.split(':')[1]} --clear-groups`

/** A word of a shell. */
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`

/** The input of a run of an image. */
interface ImageRun {
  /** The file that the pattern of COPY finds. */
  tarball: string
  env: Record<string, string>
  /** Made before, as root: paths in the image, and what is in them. */
  files: Record<string, string>
  /** Runs beside the image's first process, as its user; when it has ended the container is stopped, as Docker does it. */
  meanwhile: string
}

/**
 * Carries out a Dockerfile as Docker does, with namespaces: each stage is this machine's own file system, as its base image, with a layer of
 * its own that is gone afterwards. COPY and RUN are carried out; then ENTRYPOINT and CMD are PID 1 of their namespace. Needs root.
 *
 * @returns the exit code of PID 1, and its output
 */
export function tryImage(
  dockerfile: string,
  { tarball, env, files, meanwhile }: ImageRun,
): Promise<{ code: number | null; text: string }> {
  const { stages } = parseDockerfile(dockerfile)
  const image = stages.at(-1)!
  const said = (name: string) => image.steps.find(({ instruction }) => instruction === name)?.args ?? ''
  const root = rootOf(stages.length - 1)
  const inside = `chroot ${root} ${AS(said('USER'))}`
  const command = [...JSON.parse(said('ENTRYPOINT')), ...JSON.parse(said('CMD'))] as string[]
  const script = [
    'set -e',
    'mount --make-rprivate /',
    'mount -t tmpfs none /mnt',
    `cp ${quoted(tarball)} /mnt/`,
    ...stages.flatMap((stage, at) => scriptOf(stage, at, stages, basename(tarball))),
    ...Object.entries(files).map(([path, text]) => `printf %s ${quoted(text)} > ${root}${path}`),
    `( ${inside} sh -c ${quoted(meanwhile)}; kill -TERM 1 ) &`,
    `exec ${inside} ${command.map(quoted).join(' ')}`,
  ]
  const args = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script.join('\n')]
  return new Promise((resolve, reject) => {
    const child = spawn('unshare', args, { env: { ...process.env, ...env }, timeout: 120_000 })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (text += data))
    child.once('error', reject)
    child.once('close', code => resolve({ code, text }))
  })
}

/** Whether this process may make such namespaces, and give a file system layers of its own. */
export function canTryImages(): boolean {
  const overlay = 'mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay none'
  const probe = `${overlay} -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r`
  return process.getuid?.() === 0 && spawnSync('unshare', ['--mount', 'sh', '-c', probe]).status === 0
}

const rootOf = (stage: number) => `/mnt/${stage}/root`

function scriptOf({ steps }: Stage, at: number, stages: readonly Stage[], tarball: string): string[] {
  const [own, root] = [`/mnt/${at}`, rootOf(at)]
  const lines = [
    `mkdir -p ${own}/upper ${own}/work ${root}`,
    `mount -t overlay none -o lowerdir=/,upperdir=${own}/upper,workdir=${own}/work ${root}`,
    `for each in dev tmp; do mount --rbind /$each ${root}/$each; done`,
    `mount -t proc none ${root}/proc`,
    // A base image has an empty /run; this machine may serve in its own.
    `mount -t tmpfs -o mode=755 none ${root}/run`,
  ]
  for (const { instruction, args } of steps) {
    if (instruction === 'RUN') lines.push(`chroot ${root} sh -c ${quoted(args)}`)
    if (instruction !== 'COPY') continue
    const words = args.split(/\s+/)
    const to = words.at(-1)!
    const from = /^--from=(.*)$/.exec(words[0]!)?.[1]
    const source = stages.findIndex(({ name }) => name === from)
    // In the build's context the pattern matches the tarball.
    const what = from === undefined ? `/mnt/${tarball}` : `${rootOf(source)}${words[1]}.`
    lines.push(`mkdir -p ${root}${to}`, `cp -a ${what} ${root}${to}`)
  }
  return lines
}
