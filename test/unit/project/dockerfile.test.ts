import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { parseDockerfile } from '../../package/dockerfile.js'

const ROOT = new URL('../../../', import.meta.url)
const FILE = 'docs/examples/image/Dockerfile'
const read = (name: string) => readFileSync(new URL(name, ROOT), 'utf8')

it('the image is of any base, in stages that there are, and what runs in it is not root', () => {
  const { args, stages } = parseDockerfile(read(FILE))
  expect(stages).toHaveLength(2)
  const [install, image] = stages as [(typeof stages)[0], (typeof stages)[0]]
  for (const { from } of stages) expect(from.slice(2, -1)).toBe('NODE')
  expect([...args.keys()]).toEqual(['NODE', 'TARBALL'])
  expect(args.get('NODE')).toMatch(/^node:\d+-/)
  const copied = image.steps.filter(({ instruction }) => instruction === 'COPY')
  expect(copied.map(step => step.args.split(' ')[0])).toEqual([`--from=${install.name}`])
  const last = image.steps.map(({ instruction }) => instruction)
  expect(last.lastIndexOf('RUN')).toBeLessThan(last.indexOf('USER'))
  expect(image.steps.find(({ instruction }) => instruction === 'USER')?.args).toMatch(/^[1-9]\d*:[1-9]\d*$/)
})

it('the image runs a command of the package, and what it is built from is the tarball alone', () => {
  const { args, stages } = parseDockerfile(read(FILE))
  const said = (name: string) =>
    JSON.parse(stages.at(-1)!.steps.find(({ instruction }) => instruction === name)!.args) as string[]
  const { bin, name } = JSON.parse(read('package.json'))
  expect(bin).toHaveProperty([said('ENTRYPOINT')[0]!])
  expect(said('CMD')[0]).toBe('proxy')
  expect(read(`${FILE}.dockerignore`)).toBe(`*\n!${args.get('TARBALL')}\n`)
  expect(args.get('TARBALL')).toBe(`${name}-*.tgz`)
})
