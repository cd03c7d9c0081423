.code16
.global _start
_start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  sti
  cld
  mov $hello,%si
  call puts
main:
  mov $0x3fd,%dx
  in %dx,%al
  test $1,%al
  jz keys
  mov $0x3f8,%dx
  in %dx,%al
  cmp $'r',%al
  je reset
  cmp $'p',%al
  je off
  cmp $'w',%al
  je write
  call putc
keys:
  mov $1,%ah
  int $0x16
  jz main
  xor %ah,%ah
  int $0x16
  push %ax
  mov $'K',%al
  call putc
  pop %ax
  call putc
  jmp main
reset:
  mov $0xfe,%al
  out %al,$0x64
  jmp main
off:
  mov $0x604,%dx
  mov $0x2000,%ax
  out %ax,%dx
  jmp main
write:
  mov $0x0301,%ax
  mov $2,%cx
  mov $0x0081,%dx
  mov $0x7c00,%bx
  int $0x13
  mov $wrote,%si
  jnc 1f
  mov $failed,%si
1:
  call puts
  jmp main
puts:
  lodsb
  test %al,%al
  jz 2f
  call putc
  jmp puts
2: ret
putc:
  push %dx
  push %ax
  mov $0x3fd,%dx
3: in %dx,%al
  test $0x20,%al
  jz 3b
  pop %ax
  mov $0x3f8,%dx
  out %al,%dx
  pop %dx
  ret
hello: .asciz "boot sector runs\r\n"
wrote: .asciz "wrote\r\n"
failed: .asciz "failed\r\n"
.org 510
.word 0xaa55
