# What both splits share: the frame's layout (guest_vm::layout::Frame), register saving, exception stubs, the direct user copy,
# the first instructions of a boot on the CPU. Follows what entry.S of 2.6.7 does, in own words. AT&T syntax.
#
# A frame from user mode ends at the top of the task's stack: ebx ecx edx esi edi ebp eax ds es orig_eax eip cs eflags esp ss.

.set F_EBX, 0
.set F_ESI, 12
.set F_EDI, 16
.set F_EAX, 24
.set F_ES, 32
.set F_EIP, 40
.set F_CS, 44
.set F_ESP, 52

.set USER_CS, 0x73
.set USER_DS, 0x7b
.set SYSENTER_RETURN, 0xffffe410
.set THREAD_SIZE, 8192
# SYSENTER_ESP points 256 bytes behind the start of the TSS; esp0 is its second word.
.set TSS_ESP0, 4 - 256

.macro SAVE_REGISTERS
    pushl %eax
    pushl %ebp
    pushl %edi
    pushl %esi
    pushl %edx
    pushl %ecx
    pushl %ebx
.endm

.macro SAVE_ALL
    cld
    pushl %es
    pushl %ds
    SAVE_REGISTERS
    movl $USER_DS, %edx
    movl %edx, %ds
    movl %edx, %es
.endm

.macro RESTORE_ALL
    popl %ebx
    popl %ecx
    popl %edx
    popl %esi
    popl %edi
    popl %ebp
    popl %eax
    popl %ds
    popl %es
    addl $4, %esp
    iretl
.endm

# Calls kernel_main(frame, vector) with the frame at %esp and leaves with the frame it returns.
.macro HANDLE vector:req
    movl %esp, %eax
    pushl \vector
    pushl %eax
    call kernel_main
    jmp leave_kernel
.endm

# One stub for each of 32 exceptions, 16 bytes apart: an error code where the CPU pushes none, then the vector.
.macro EXCEPTION number:req, error:req
    .balign 16
    .if \error == 0
    pushl $0
    .endif
    pushl $\number
    jmp exception
.endm

.macro EXCEPTION_STUBS
    .balign 16
    .globl exception_stubs
exception_stubs:
    .set number, 0
    .rept 32
    .if (number == 8) | (number == 10) | (number == 11) | (number == 12) | (number == 13) | (number == 14) | (number == 17)
    EXCEPTION number, 1
    .else
    EXCEPTION number, 0
    .endif
    .set number, number + 1
    .endr
    .balign 16
.endm

# The direct user copy: user_copy(to, from, bytes); 0, or 1 after a bad address. Dwords, then the rest, as __copy_user.
.macro USER_COPY
    .globl user_copy, user_copy_start, user_copy_end, user_copy_fixup
    .type user_copy, @function
    .balign 16
user_copy:
    pushl %edi
    pushl %esi
    movl 12(%esp), %edi
    movl 16(%esp), %esi
    movl 20(%esp), %ecx
    movl %ecx, %edx
    shrl $2, %ecx
    andl $3, %edx
user_copy_start:
    rep movsl
    movl %edx, %ecx
    rep movsb
user_copy_end:
    xorl %eax, %eax
    popl %esi
    popl %edi
    retl
user_copy_fixup:
    movl $1, %eax
    popl %esi
    popl %edi
    retl
    .size user_copy, . - user_copy
.endm

# Enters protected mode with paging. In: flat 4 GB segments, paging off, interrupts off. The boot page tables (page-directory
# pointers at 0xe000, one page directory at 0xf000) show the first 2 MB at their physical address, and low memory from
# \offset on through slot \slot, from entry \entry of the directory. Boot builds the real tables and clears these.
.macro BOOT_START offset:req, slot:req, entry:req
    .section .text.boot, "ax"
    .globl _start
_start:
    movl $0xe000, %esp
    cld
    movl $0xe000, %edi
    xorl %eax, %eax
    movl $2048, %ecx
    rep stosl
    movl $0x83, %eax
    movl %eax, 0xf000
    movl $(0xf000 + 8 * \entry), %edi
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    cmpl $0x10000, %edi
    jne 1b
    movl $0xf001, %eax
    movl %eax, 0xe000
    movl %eax, 0xe000 + 8 * \slot
    movl $0xe000, %eax
    movl %eax, %cr3
    movl $0x30, %eax
    movl %eax, %cr4
    movl $0x80050033, %eax
    movl %eax, %cr0
    movl $1f, %eax
    jmp *%eax
1:  addl $\offset, %esp
    call boot_entry
    jmp leave_kernel
.endm

# Loads the segment registers and the task register from the kernel's GDT: load_segments().
    .section .text.boot, "ax"
    .globl load_segments
load_segments:
    pushl $0x60
    pushl $1f
    lretl
1:  movl $0x68, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $0x80, %eax
    ltrw %ax
    retl
