import { expect, it } from 'vitest'
import { atExit } from '../../fixtures/base.js'

it('many parts have one listener of the end of the process, which calls those that are left', () => {
  const before = process.listeners('exit')
  const called: number[] = []
  const endings = Array.from({ length: 20 }, (_, part) => atExit(() => called.push(part)))
  const added = process.listeners('exit').filter(each => !before.includes(each))
  expect(added).toHaveLength(1)
  for (const end of endings.slice(2)) end()
  added[0]!(0)
  expect(called).toEqual([0, 1])
  for (const end of endings) end()
  expect(process.listeners('exit')).toEqual(before)
})
