# Entry and exit of a kernel that shares its page tables with user mode.

    .section .text.entry, "ax"
    .balign 4096
    EXCEPTION_STUBS
exception:
    pushl %ds
    SAVE_REGISTERS
    cld
    # The vector lies where es belongs.
    movl %es, %ecx
    movl F_ES(%esp), %edi
    movl %ecx, F_ES(%esp)
    movl $USER_DS, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    HANDLE %edi

    .balign 16
    .globl system_call
system_call:
    pushl %eax
    SAVE_ALL
    HANDLE $0x80

.macro INTERRUPT name:req, vector:req
    .balign 16
    .globl \name
\name:
    pushl $(\vector - 256)
    SAVE_ALL
    HANDLE $\vector
.endm
    INTERRUPT tick_stub, 0x20
    INTERRUPT resched_stub, 0x21
    INTERRUPT unmap_stub, 0x22

    .balign 16
    .globl leave_kernel
leave_kernel:
    movl %eax, %esp
    RESTORE_ALL

    .balign 16
    .globl sysenter_entry
sysenter_entry:
    movl TSS_ESP0(%esp), %esp
    sti
    pushl $USER_DS
    pushl %ebp
    pushfl
    pushl $USER_CS
    pushl $SYSENTER_RETURN
    pushl %eax
    SAVE_ALL
    movl %esp, %ebp
    pushl $0x100
    pushl %ebp
    call kernel_main
    # Another task's frame is left by iret, as is a task that was switched away from.
    cmpl %ebp, %eax
    jne leave_kernel
    movl %ebp, %esp
    movl F_EBX(%esp), %ebx
    movl F_ESI(%esp), %esi
    movl F_EDI(%esp), %edi
    movl F_EAX(%esp), %eax
    movl F_EIP(%esp), %edx
    movl F_ESP(%esp), %ecx
    xorl %ebp, %ebp
    sti
    sysexit

    USER_COPY
